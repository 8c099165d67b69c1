# Writes hindsight_build.h; run at every build, but the file changes (and what includes it is compiled) only with its content.
find_package(Git QUIET)
set(revision unknown)
if(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE_DIR} rev-parse --short=12 HEAD
    OUTPUT_VARIABLE head RESULT_VARIABLE status ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(status EQUAL 0)
    set(revision ${head})
    execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE_DIR} status --porcelain --untracked-files=no
      OUTPUT_VARIABLE changes ERROR_QUIET)
    if(changes)
      string(APPEND revision "+dirty")
    endif()
  endif()
endif()
set(text "#pragma once
#define HINDSIGHT_VERSION \"${VERSION}\"
#define HINDSIGHT_GIT_REVISION \"${revision}\"
#define HINDSIGHT_COMPILER \"${COMPILER}\"
#define HINDSIGHT_CUDA_ARCHITECTURES \"${CUDA_ARCHITECTURES}\"
#define HINDSIGHT_CUDA_TOOLKIT \"${CUDA_TOOLKIT}\"
")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT text STREQUAL old)
  file(WRITE ${OUTPUT} "${text}")
endif()

# Language level, warnings, sanitizers: one interface target that everything links.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

option(HINDSIGHT_WERROR "Warnings are errors" ON)
set(HINDSIGHT_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")
set(HINDSIGHT_CPU_ARCH "x86-64-v3" CACHE STRING "-march of C++ code on x86-64; empty for the compiler's default")

# Programs find the libraries that a tarball brings beside them.
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")
# As RPATH: a RUNPATH would not be searched for what these libraries need themselves.
add_link_options(-Wl,--disable-new-dtags)

add_library(hindsight_options INTERFACE)
target_compile_options(hindsight_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion>
  $<$<AND:$<BOOL:${HINDSIGHT_WERROR}>,$<COMPILE_LANGUAGE:CXX>>:-Werror>)
if(HINDSIGHT_CPU_ARCH AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(hindsight_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=${HINDSIGHT_CPU_ARCH}>)
endif()
if(HINDSIGHT_SANITIZE)
  target_compile_options(hindsight_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${HINDSIGHT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  # With sanitizers g++ 12 warns of <functional> and <regex> themselves.
  target_compile_options(hindsight_options INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized>)
  target_link_options(hindsight_options INTERFACE -fsanitize=${HINDSIGHT_SANITIZE})
endif()
target_include_directories(hindsight_options INTERFACE ${PROJECT_SOURCE_DIR}/lib)

# hindsight_library(NAME LINKS...): a static library of the .cpp files of the current folder (adding a file is adding a file).
function(hindsight_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(sources)
    add_library(hindsight_${name} STATIC ${sources})
    target_link_libraries(hindsight_${name} PUBLIC hindsight_options ${ARGN})
  else()
    add_library(hindsight_${name} INTERFACE)
    target_link_libraries(hindsight_${name} INTERFACE hindsight_options ${ARGN})
  endif()
  add_library(hindsight::${name} ALIAS hindsight_${name})
endfunction()

# Programs that are installed and packed.
function(hindsight_program target)
  set_property(GLOBAL APPEND PROPERTY HINDSIGHT_PROGRAMS ${target})
endfunction()

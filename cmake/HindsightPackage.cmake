# cmake --install, and cpack: a tarball of executables, tests and benchmarks with the shared libraries they need, which runs wherever there is
# a glibc no older than here (and, for GPU work, the NVIDIA driver): cluster nodes have no HDF5.

include(GNUInstallDirs)
get_property(programs GLOBAL PROPERTY HINDSIGHT_PROGRAMS)
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/hindsight)
install(DIRECTORY experiments/traces DESTINATION ${CMAKE_INSTALL_DATADIR}/hindsight/experiments)
install(FILES README.md LICENSE CITATION.cff DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/hindsight)

# The libraries travel with the tarball only: an installation uses the system's.
foreach(program ${programs})
  list(APPEND program_files $<TARGET_FILE:${program}>)
endforeach()
install(CODE "set(program_files \"${program_files}\")" COMPONENT libraries EXCLUDE_FROM_ALL)
install(CODE [[
  file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${program_files} RESOLVED_DEPENDENCIES_VAR libraries
    # glibc and the driver belong to the machine.
    PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|util)\\.so" "^libcuda\\.so"
    POST_EXCLUDE_REGEXES "/ld-linux" "/lib(c|m|dl|rt|pthread|resolv|util)\\.so")
  foreach(library ${libraries})
    file(INSTALL ${library} DESTINATION ${CMAKE_INSTALL_PREFIX}/lib FOLLOW_SYMLINK_CHAIN)
  endforeach()
]] COMPONENT libraries EXCLUDE_FROM_ALL)

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_NAME hindsight)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/dist)
set(CPACK_STRIP_FILES ON)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_COMPONENT_INCLUDE_TOPLEVEL_DIRECTORY ON)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_COMPONENTS_ALL Unspecified libraries)
include(CPack)

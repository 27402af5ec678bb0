# Links on a newer Linux for an older one. Since glibc 2.34 the functions of libpthread, libdl and librt are libc's, under
# a new version: what is linked there does not load on glibc 2.28. glibc keeps the old versions for old programs. This
# makes a stub of each old library, with the names and old versions that this system's libc lists; what is linked against
# the stubs asks for `pthread_create@GLIBC_2.2.5` of libpthread.so.0, which old and new systems have.
# Sets EK_OLDER_GLIBC to the stubs: link them last. Empty where libc is older than 2.34, or another.
set(EK_OLDER_GLIBC)
execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libc.so.6
                OUTPUT_VARIABLE libc OUTPUT_STRIP_TRAILING_WHITESPACE)
execute_process(COMMAND ${CMAKE_OBJDUMP} -T ${libc} OUTPUT_VARIABLE symbols ERROR_QUIET)
string(REGEX MATCHALL " GLIBC_2\\.34 +[a-z_0-9]+" moved "${symbols}")
list(TRANSFORM moved REPLACE ".* " "")
string(REGEX MATCHALL "\\(GLIBC_[0-9.]+\\) [a-z_0-9]+" old "${symbols}")

function(ek_older_library library soversion prefixes)
  set(versions)
  foreach(entry ${old})
    string(REGEX MATCH "\\((.+)\\) (.+)" _ "${entry}")
    set(version ${CMAKE_MATCH_1})
    set(name ${CMAKE_MATCH_2})
    if(name MATCHES "^(${prefixes})" AND name IN_LIST moved AND NOT name IN_LIST seen)
      list(APPEND seen ${name})
      list(APPEND versions ${version})
      string(APPEND functions "extern \"C\" void ${name}() {}\n")
      string(APPEND names_${version} " ${name};")
    endif()
  endforeach()
  if(NOT versions)
    return()
  endif()
  list(REMOVE_DUPLICATES versions)
  foreach(version ${versions})
    string(APPEND map "${version} { global:${names_${version}} };\n")
  endforeach()
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/older_glibc)
  file(CONFIGURE OUTPUT ${folder}/${library}.cpp CONTENT "${functions}" @ONLY)
  file(CONFIGURE OUTPUT ${folder}/${library}.map CONTENT "${map}" @ONLY)
  add_library(ek_older_${library} SHARED ${folder}/${library}.cpp)
  set_target_properties(ek_older_${library} PROPERTIES OUTPUT_NAME ${library} SOVERSION ${soversion}
                        CXX_VISIBILITY_PRESET default LIBRARY_OUTPUT_DIRECTORY ${folder})
  target_compile_options(ek_older_${library} PRIVATE -fno-builtin -w)
  target_link_options(ek_older_${library} PRIVATE -nostdlib -Wl,--version-script=${folder}/${library}.map)
  set(EK_OLDER_GLIBC ${EK_OLDER_GLIBC} ek_older_${library} PARENT_SCOPE)
endfunction()

ek_older_library(pthread 0 "pthread_|sem_")
ek_older_library(dl 2 "dl")
ek_older_library(rt 1 "shm_|mq_|timer_|aio_")

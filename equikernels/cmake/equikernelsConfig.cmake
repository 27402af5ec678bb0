# find_package(equikernels): the target equikernels::equikernels has the op library and the folder of equikernels.h.
# It needs LibTorch: where Torch was not found before, it is looked for here.
include(CMakeFindDependencyMacro)
find_dependency(Torch)

get_filename_component(equikernels_FOLDER "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set(equikernels_OPS_LIBRARY "${equikernels_FOLDER}/_ops.so")
if(NOT EXISTS "${equikernels_OPS_LIBRARY}")
  set(equikernels_FOUND FALSE)
  set(equikernels_NOT_FOUND_MESSAGE "${equikernels_OPS_LIBRARY} was not built")
  return()
endif()

if(NOT TARGET equikernels::equikernels)
  add_library(equikernels::equikernels SHARED IMPORTED)
  set_target_properties(equikernels::equikernels PROPERTIES
    IMPORTED_LOCATION "${equikernels_OPS_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${equikernels_FOLDER}/include"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_LINK_LIBRARIES "${TORCH_LIBRARIES}")
endif()

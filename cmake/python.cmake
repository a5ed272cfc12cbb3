# The Python module _weft over the target `weft`.
set(WEFT_PYTHON_FOLDER ${PROJECT_SOURCE_DIR}/python/weft)

# Finds its library beside itself.
function(weft_add_python_module)
  find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
  find_package(pybind11 3 CONFIG REQUIRED)
  file(GLOB bindings CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/bindings/*.cpp)
  pybind11_add_module(_weft ${bindings})
  target_link_libraries(_weft PRIVATE weft weft_flags)
  set_target_properties(_weft PROPERTIES BUILD_RPATH_USE_ORIGIN ON INSTALL_RPATH "$ORIGIN")
  if(WEFT_INPLACE)
    set_target_properties(_weft PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${WEFT_PYTHON_FOLDER})
  endif()
  install(TARGETS _weft LIBRARY DESTINATION weft)
endfunction()

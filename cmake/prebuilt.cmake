# Only the Python module, over a libweft.so that was compiled elsewhere, which is put beside it:
#   cmake -S . -B build/module -DWEFT_PREBUILT_LIBRARY=/path/libweft.so -DWEFT_INPLACE=ON
# A module is of one version of Python, the library of none; the headers of csrc/ must be those that it was built from.
if(NOT EXISTS ${WEFT_PREBUILT_LIBRARY})
  message(FATAL_ERROR "WEFT_PREBUILT_LIBRARY=${WEFT_PREBUILT_LIBRARY}: there is no such file")
endif()
include(cmake/python.cmake)

add_library(weft SHARED IMPORTED)
set_target_properties(weft PROPERTIES IMPORTED_LOCATION ${WEFT_PREBUILT_LIBRARY})
target_include_directories(weft INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
target_link_libraries(weft INTERFACE fmt::fmt Threads::Threads)
# The headers declare the CUDA backend if the library has it.
file(STRINGS ${WEFT_PREBUILT_LIBRARY} cuda_symbols REGEX "cuda_unavailable_reason" LIMIT_COUNT 1)
if(cuda_symbols)
  target_compile_definitions(weft INTERFACE WEFT_CUDA=1)
endif()

weft_add_python_module()
if(WEFT_INPLACE)
  file(COPY ${WEFT_PREBUILT_LIBRARY} DESTINATION ${WEFT_PYTHON_FOLDER})
  set_target_properties(_weft PROPERTIES BUILD_WITH_INSTALL_RPATH ON)
endif()
install(FILES ${WEFT_PREBUILT_LIBRARY} DESTINATION weft)

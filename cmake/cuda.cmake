# The CUDA backend. WEFT_CUDA: AUTO takes nvcc if there is one, ON insists, OFF leaves it out; EMULATED compiles
# device/cuda and kernels/ as C++ against tests_cpp/support/cuda_emulation/, which runs them on the CPU, thread by
# thread.
if(NOT WEFT_CUDA MATCHES "^(AUTO|ON|OFF|EMULATED)$")
  message(FATAL_ERROR "WEFT_CUDA=${WEFT_CUDA} is not a choice; use AUTO, ON, OFF or EMULATED")
endif()
# sm_90a: H100 and H200. Others, by -DWEFT_CUDA_ARCHITECTURES=90a;100 and the like, are untried.
set(WEFT_CUDA_ARCHITECTURES "90a" CACHE STRING "GPU architectures to compile kernels for")
set(WEFT_HAS_CUDA OFF)
# Headers that weft compiles kernels from but does not contain; tools/cuda_headers.py fetches them. Empty: native
# kernels alone. A file of kernels/ whose name starts with flashinfer or deepgemm is compiled with its headers, or left
# out without; csrc/device/cuda/cublas_lt.cpp has a second, empty half.
set(WEFT_CUBLAS_INCLUDE_DIR "" CACHE PATH "Folder of cublasLt.h, whose library is loaded when it is first needed")
set(WEFT_FLASHINFER_DIR "" CACHE PATH "Folder flashinfer/data of the wheel flashinfer-python")
set(WEFT_DEEPGEMM_DIR "" CACHE PATH "Folder deep_gemm/include of the wheel sgl-deep-gemm")

if(WEFT_CUDA STREQUAL "AUTO" OR WEFT_CUDA STREQUAL "ON")
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${WEFT_CUDA_ARCHITECTURES})
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # the library then loads on a machine without a driver
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(WEFT_HAS_CUDA ON)
    message(STATUS "weft: CUDA backend with nvcc ${CMAKE_CUDA_COMPILER_VERSION} for sm_${WEFT_CUDA_ARCHITECTURES}")
  elseif(WEFT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "WEFT_CUDA=ON, but there is no nvcc; put it on PATH or set CUDACXX")
  else()
    message(STATUS "weft: no nvcc found; building the CPU backend only")
  endif()
elseif(WEFT_CUDA STREQUAL "EMULATED")
  set(WEFT_HAS_CUDA ON)
endif()

# Adds the backend to `target`: device/cuda (C++) and kernels/ (CUDA C++).
function(weft_add_cuda target)
  file(GLOB_RECURSE device_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/device/cuda/*.cpp)
  file(GLOB_RECURSE kernel_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)
  weft_add_foreign_kernels(${target})
  target_sources(${target} PRIVATE ${device_sources} ${kernel_sources})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${target} PUBLIC WEFT_CUDA=1)
  if(WEFT_CUDA STREQUAL "EMULATED")
    file(GLOB emulation_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests_cpp/support/cuda_emulation/*.cpp)
    target_sources(${target} PRIVATE ${emulation_sources})
  endif()
  weft_use_cuda(${target} ${kernel_sources})
endfunction()

# Gives the files of `kernel_sources` that need headers of a wheel those headers, and takes out those whose headers
# are not there. The folders stand before the toolkit's, as FlashInfer needs a newer CCCL than CUDA 13.0 has.
macro(weft_add_foreign_kernels target)
  set(foreign "")
  # Who chooses between kernels.
  file(GLOB choosers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/ops/*.cpp)
  list(APPEND choosers ${kernel_sources})
  weft_foreign(${target} cublaslt WEFT_HAS_CUBLASLT "${WEFT_CUBLAS_INCLUDE_DIR}" cublasLt.h .)
  if("cublaslt" IN_LIST foreign)
    set_source_files_properties(${PROJECT_SOURCE_DIR}/csrc/device/cuda/cublas_lt.cpp PROPERTIES
      INCLUDE_DIRECTORIES "${WEFT_CUBLAS_INCLUDE_DIR}" COMPILE_DEFINITIONS WEFT_HAS_CUBLASLT=1)
    target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
  endif()
  weft_foreign(${target} deepgemm WEFT_HAS_DEEPGEMM "${WEFT_DEEPGEMM_DIR}" deep_gemm/common/types.cuh .)
  weft_foreign(${target} flashinfer WEFT_HAS_FLASHINFER "${WEFT_FLASHINFER_DIR}" include/flashinfer/page.cuh
    cccl/libcudacxx/include cccl/cub cccl/thrust include cutlass/include cutlass/tools/util/include)
  if(NOT foreign)
    set(foreign none)
  endif()
  message(STATUS "weft: kernels from headers of others: ${foreign}")
endmacro()

# weft_foreign(target prefix definition folder probe includes..): `probe` is a file that the folder must have.
macro(weft_foreign target prefix definition folder probe)
  set(mine ${kernel_sources})
  list(FILTER mine INCLUDE REGEX "/${prefix}[^/]*\\.cu$")
  if("${folder}" STREQUAL "" OR WEFT_CUDA STREQUAL "EMULATED")
    list(REMOVE_ITEM kernel_sources "" ${mine})
  elseif(NOT EXISTS "${folder}/${probe}")
    message(FATAL_ERROR "${folder} has no ${probe}; run tools/cuda_headers.py, which prints the folders to name, "
                        "or leave the option empty")
  else()
    list(APPEND foreign ${prefix})
    set_property(SOURCE ${choosers} APPEND PROPERTY COMPILE_DEFINITIONS ${definition}=1)
    set(includes ${ARGN})
    list(TRANSFORM includes PREPEND "${folder}/")
    if("${prefix}" STREQUAL "flashinfer")
      # Its Hopper kernels reach a file of CUTLASS's tests that wants cuRAND, and use nothing of it.
      set(stubs ${CMAKE_CURRENT_BINARY_DIR}/stubs)
      file(WRITE ${stubs}/cutlass/util/reference/device/tensor_fill.h "")
      list(PREPEND includes ${stubs})
    endif()
    # In their templates: unused variables, expressions without effect, lambdas that capture `this` by [=], deprecated
    # functions of their own.
    set_source_files_properties(${mine} PROPERTIES INCLUDE_DIRECTORIES "${includes}"
      COMPILE_OPTIONS "-diag-suppress=174,177,1444,2908")
  endif()
endmacro()

# Lets `target`, and its CUDA C++ files named after it, use the CUDA runtime.
function(weft_use_cuda target)
  if(WEFT_CUDA STREQUAL "EMULATED")
    # nvcc's warnings are what kernels are held to.
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-w")
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests_cpp/support/cuda_emulation)
    target_compile_definitions(${target} PRIVATE WEFT_CUDA_EMULATED=1)
  else()
    # CMake 3.25 ignores CUDA_STANDARD 20, so the option is given by hand. Constants and constexpr functions of
    # base/ are used in kernels.
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-O3;-lineinfo>"
      "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${WEFT_WERROR}>>:-Werror=all-warnings>")
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
  endif()
endfunction()

# The CUDA backend. WEFT_CUDA: AUTO takes nvcc if there is one, ON insists, OFF leaves it out; EMULATED compiles
# device/cuda and kernels/ as C++ against cuda_emulation/, which runs them on the CPU, thread by thread.
if(NOT WEFT_CUDA MATCHES "^(AUTO|ON|OFF|EMULATED)$")
  message(FATAL_ERROR "WEFT_CUDA=${WEFT_CUDA} is not a choice; use AUTO, ON, OFF or EMULATED")
endif()
# sm_90a: H100 and H200. Others by -DWEFT_CUDA_ARCHITECTURES=80;90a and the like.
set(WEFT_CUDA_ARCHITECTURES "90a" CACHE STRING "GPU architectures to compile kernels for")
set(WEFT_HAS_CUDA OFF)

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
  target_sources(${target} PRIVATE ${device_sources} ${kernel_sources})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${target} PUBLIC WEFT_CUDA=1)
  if(WEFT_CUDA STREQUAL "EMULATED")
    file(GLOB emulation_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda_emulation/*.cpp)
    target_sources(${target} PRIVATE ${emulation_sources})
  endif()
  weft_use_cuda(${target} ${kernel_sources})
endfunction()

# Lets `target`, and its CUDA C++ files named after it, use the CUDA runtime.
function(weft_use_cuda target)
  if(WEFT_CUDA STREQUAL "EMULATED")
    # nvcc's warnings are what kernels are held to.
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-w")
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/cuda_emulation)
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

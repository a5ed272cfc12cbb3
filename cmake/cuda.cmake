# weft has no CUDA code yet: AUTO says so, ON stops with the reason.
if(NOT WEFT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "WEFT_CUDA=${WEFT_CUDA} is not a choice; use AUTO, ON or OFF")
endif()
if(WEFT_CUDA STREQUAL "ON")
  message(FATAL_ERROR "WEFT_CUDA=ON, but this version of weft has no CUDA backend; use WEFT_CUDA=OFF or AUTO")
elseif(WEFT_CUDA STREQUAL "AUTO")
  message(STATUS "weft: no CUDA backend in this version; building the CPU backend only")
endif()

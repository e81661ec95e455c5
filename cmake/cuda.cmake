# The CUDA halves: one compiler, one list of architectures, static runtime so that a build travels. Included only by the `cuda` preset.
set(CMAKE_CUDA_ARCHITECTURES "90" CACHE STRING "what was tested on; the release preset names more")
if(NOT CMAKE_CUDA_COMPILER)
  find_program(NVCC nvcc HINTS /usr/local/cuda/bin REQUIRED)
  set(CMAKE_CUDA_COMPILER ${NVCC})
endif()
enable_language(CUDA)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # CMake 3.25 does not know that CUDA 13's nvcc has it
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -lineinfo")
find_package(CUDAToolkit REQUIRED)
find_library(CUDNN cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
if(NOT CUDNN)
  message(FATAL_ERROR "the cuda preset needs cuDNN 9 beside CUDA; PRESET=cpu builds without a GPU")
endif()
target_compile_definitions(thimble_flags INTERFACE THIMBLE_CUDA)
target_link_libraries(thimble_flags INTERFACE CUDA::cudart_static CUDA::cublasLt ${CUDNN})

# cuDNN's C++ headers, from a wheel pinned by hash; one file includes them.
set(THIMBLE_WHEELS ${CMAKE_BINARY_DIR}/wheels)
execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/cuda_wheels.sh ${THIMBLE_WHEELS} COMMAND_ERROR_IS_FATAL ANY)
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/ops/attention_cudnn.cpp PROPERTIES INCLUDE_DIRECTORIES
  "${THIMBLE_WHEELS}/cudnn_frontend/include;${CUDAToolkit_INCLUDE_DIRS}" COMPILE_OPTIONS "-w")

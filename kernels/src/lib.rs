//! Every operation of the GPT-OSS forward pass: slow reference twins, SIMD for the CPU, CUDA for the GPU.

//! The GPTQ solver: Hessian, factor, column loop, refinement; matrices in, matrices out

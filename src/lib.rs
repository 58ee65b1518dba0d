//! Quantize language models into few bits and run them, on a plain CPU.
pub use fewbit_checkpoint as checkpoint;
pub use fewbit_eval as eval;
pub use fewbit_format as format;
pub use fewbit_gptq as gptq;
pub use fewbit_kernels as kernels;
pub use fewbit_model as model;
pub use fewbit_pipeline as pipeline;

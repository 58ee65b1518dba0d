//! Calibrate, quantize block by block, write, reopen and verify

//! Benchmarks of the workspace; run them with `cargo bench -p fewbit-benches`.

//! Executes the strategy that a DataVolume's annotation names.

fn main() {}

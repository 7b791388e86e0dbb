//! A small honest CSI driver on reflinked image files, for tests and the demo only.

fn main() {}

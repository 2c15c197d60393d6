//! reference-node.

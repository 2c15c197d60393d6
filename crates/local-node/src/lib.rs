//! local-node.

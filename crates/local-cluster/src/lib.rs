//! local-cluster.

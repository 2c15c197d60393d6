//! reference-registry.

//! reference-operator.

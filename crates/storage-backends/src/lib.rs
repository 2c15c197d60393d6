//! storage-backends.

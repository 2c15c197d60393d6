//! reference-cli.

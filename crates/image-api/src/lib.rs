//! image-api.

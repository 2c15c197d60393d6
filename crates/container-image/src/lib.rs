//! Container images made from files, without an engine: layers, docker-archive tars, and what an executable needs beside it.
//! Loading an archive into an engine or a node, and deciding which images a run needs, is left to others.

mod archive;
mod closure;
mod error;
mod layer;
mod own;

pub use archive::{Archive, ArchivedImage, Image, sha256_of};
pub use closure::Closure;
pub use error::Error;
pub use layer::{Layer, LayerBuilder};
pub use own::{OWN_COMPONENTS, OWN_PROGRAM, OWN_REGISTRY, own_image, stripped};

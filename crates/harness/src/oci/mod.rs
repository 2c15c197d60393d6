//! The judge's own registry client: it speaks the distribution protocol over the doorway and hides nothing. Statuses,
//! headers and bodies are handed to the steps as they came; it shares no code with any registry under test.

mod client;
mod image;
mod reference;

pub use client::{Account, Answer, Credentials, LoginOutcome, Pulled, Registry, RegistryOptions};
pub use image::{Blob, Image, MediaTypes, digest_of};
pub use reference::{Reference, ReferenceError};

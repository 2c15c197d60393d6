//! The image map of a lane: which command stands for which image name, with the files that images bring laid out in the
//! lane's folder. What the nodes make of it is theirs.

use std::path::Path;

use harness::{
    failure::{Failure, Tried as _},
    system::Image,
};

use super::make_folder;
use crate::{executable::own_executable, lane::Request};

/// The image map for the nodes, with the placeholders of the system file filled in and its files laid out. `tools` is
/// the folder in which documented commands find `oc`.
pub(super) fn lay_out(request: &Request, folder: &Path, tools: &Path) -> Result<Vec<Image>, Failure> {
    let (own, tools) = (own_executable().display().to_string(), tools.display().to_string());
    let mut images = request.system.images.clone();
    for image in &mut images {
        for word in image.command.iter_mut().chain(image.env.values_mut()) {
            *word = word.replace("{self}", &own).replace("{tools}", &tools);
        }
        for (index, (inside, file)) in image.rewrite.iter_mut().enumerate() {
            let tried = || format!("giving the image {} its file {inside}", image.image);
            let text = request.data.bytes(file).tried(tried())?;
            let place = folder.join(image.image.replace('/', "_")).join(index.to_string());
            make_folder(&place)?;
            let real = place.join(file.file_name().unwrap_or_default());
            std::fs::write(&real, text).tried(tried())?;
            // In a root of its own the program finds the file under its documented path.
            if !image.own_root {
                let real = real.display().to_string();
                for word in image.command.iter_mut().chain(image.env.values_mut()) {
                    *word = word.replace(inside.as_str(), &real);
                }
            }
            *file = real;
        }
    }
    Ok(images)
}

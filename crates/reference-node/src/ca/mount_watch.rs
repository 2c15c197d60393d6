//! Notices that a mounted folder changed, also when the folder itself is replaced or appears late.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// A watch on a folder, on the folder around it, and on where links lead.
pub(super) struct MountWatch {
    watches: Inotify,
    /// The same descriptor as a stream of bytes: that something happened is all that is asked.
    events: Receiver,
    folder: PathBuf,
}

impl MountWatch {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let watches = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = Receiver::from_file_unchecked(File::from(watches.as_fd().try_clone_to_owned()?))?;
        Ok(MountWatch { watches, events, folder: folder.to_owned() })
    }

    /// Places the watches on what is there now; call it before reading the folder, so that no change is missed.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let around = self.folder.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
        self.watches.add_watch(around, flags)?;
        for place in [self.folder.clone(), self.folder.join("..data")] {
            match self.watches.add_watch(&place, flags) {
                Ok(_) | Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Returns when something changed since the last call; several changes may be one return.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.events.read(&mut events).await.map(drop)
    }
}

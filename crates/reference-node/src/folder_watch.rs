//! Notices that a folder or one of the folders in it changed, also when the folder itself is replaced or appears late.
//! Says only that something happened; what, is for the reader of the folder to find out.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// A watch on a folder, on the folder around it, and on the folders in it, also where links lead.
pub(crate) struct FolderWatch {
    watches: Inotify,
    /// The same descriptor as a stream of bytes: that something happened is all that is asked.
    events: Receiver,
    folder: PathBuf,
}

impl FolderWatch {
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let watches = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = Receiver::from_file_unchecked(File::from(watches.as_fd().try_clone_to_owned()?))?;
        Ok(FolderWatch { watches, events, folder: folder.to_owned() })
    }

    /// Places the watches on what is there now; call it before reading the folder, so that no change is missed.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        let around = self.folder.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
        self.watch(around)?;
        self.watch(&self.folder)?;
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                self.watch(&path)?;
            }
        }
        Ok(())
    }

    /// Watches one place; that it is no folder, or no longer there, is no error.
    fn watch(&self, place: &Path) -> io::Result<()> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        match self.watches.add_watch(place, flags) {
            Ok(_) | Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when something changed since the last call; several changes may be one return.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.events.read(&mut events).await.map(drop)
    }
}

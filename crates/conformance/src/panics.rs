//! Panics of steps: caught on the lane's thread, with the place where they happened. Panics of any other thread go the
//! way they went before.

use std::{any::Any, cell::RefCell, panic, sync::Once};

thread_local! {
    /// `Some` while this thread catches panics; holds the place of the last one.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

static INSTALL: Once = Once::new();

/// Catches panics on this thread from now on.
pub(crate) fn catch_here() {
    INSTALL.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ours = CAUGHT.with_borrow_mut(|caught| match caught {
                Some(place) => {
                    *place = info.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
                    true
                }
                None => false,
            });
            if !ours {
                before(info);
            }
        }));
    });
    CAUGHT.set(Some(String::new()));
}

/// The place of the last panic on this thread, if it is known.
pub(crate) fn place() -> Option<String> {
    CAUGHT.with_borrow_mut(|caught| caught.as_mut().map(std::mem::take)).filter(|place| !place.is_empty())
}

/// The text a panic carried.
pub(crate) fn text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without text".to_owned())
}

//! By which route the plugin serves images.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use di3fs::mount::{Found, Route, find_route, has_room};
use tempfile::NamedTempFile;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::holder::Holder;

/// In the root: the route that was found last, and `directly` where containers may use it so.
const KNOWN: &str = "route";

/// How images are served, and the holder of what serves them. A route that is not asked for by its name is taken only
/// where a successor can go on with it. Without room to find out it is the one of the start before.
///
/// # Errors
/// The route asked for does not work.
pub fn choose_route(config: &Config, root: &Path) -> Result<(Found, Holder)> {
    // What runs, also when an upgrade has put something else, or nothing, in its place.
    let holder = Holder::new("/proc/self/exe".into(), root);
    let wanted = config.route.wanted();
    let in_advance = Found { route: Route::Overlay, directly: false };
    if wanted == Some(Route::Overlay) {
        return Ok((in_advance, holder));
    }
    match holder.check() {
        Ok(()) => Ok((found(root, wanted)?, holder)),
        Err(error) if wanted.is_some() => {
            Err(Error::Unavailable { what: format!("start holder: {}: {error}", root.display()) })
        }
        Err(error) => {
            tracing::warn!(%error, "no holder: all is made in advance");
            Ok((in_advance, holder))
        }
    }
}

fn found(root: &Path, wanted: Option<Route>) -> Result<Found> {
    match find_route(root, wanted) {
        Ok(found) => {
            if known(root) != Some(found)
                && let Err(error) = keep(root, found)
            {
                tracing::warn!(%error, "the route is not noted for a start without room");
            }
            Ok(found)
        }
        Err(error) if has_room(root) => Err(Error::Unavailable { what: error.to_string() }),
        Err(error) => match known(root).filter(|known| wanted.is_none_or(|wanted| wanted == known.route)) {
            Some(known) => {
                tracing::warn!(%error, route = %known.route, "cannot try routes: takes the last one");
                Ok(known)
            }
            None if wanted.is_some() => Err(Error::Unavailable { what: error.to_string() }),
            None => {
                tracing::warn!(%error, "cannot try routes: all is made in advance");
                Ok(Found { route: Route::Overlay, directly: false })
            }
        },
    }
}

fn keep(root: &Path, found: Found) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(root)?;
    let directly = if found.directly { " directly" } else { "" };
    writeln!(file, "{}{directly}", found.route)?;
    file.persist(root.join(KNOWN))?;
    Ok(())
}

fn known(root: &Path) -> Option<Found> {
    let text = fs::read_to_string(root.join(KNOWN)).ok()?;
    let (route, directly) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
    Some(Found { route: route.parse().ok()?, directly: directly == "directly" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_known() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(known(root.path()), None);
        for route in Route::ALL {
            for directly in [false, true] {
                let found = Found { route, directly };
                keep(root.path(), found).unwrap();
                assert_eq!(known(root.path()), Some(found));
            }
        }
        fs::write(root.path().join(KNOWN), "faster\n").unwrap();
        assert_eq!(known(root.path()), None);
    }
}

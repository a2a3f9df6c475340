//! Where compiled tables are kept for the next start.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access, geteuid};

use super::Item;

const NAME: &str = "unwind cache";
/// Others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// Looks at the directory, and makes nothing.
pub(super) fn look(cache: Option<&Path>) -> Item {
    let Some(cache) = cache else {
        return Item::ok(NAME, "off: each start reads the files of running programs anew");
    };
    let shown = cache.display();
    let remedy = "mount a directory there that only the profiler's user may write to, or set unwind.cache; without it each \
                  start reads the files of running programs anew";
    let limited = |seen: String| Item::limited(NAME, seen, remedy);
    match cache.symlink_metadata() {
        Ok(found) if !found.is_dir() => limited(format!("{shown} is no directory")),
        Ok(found) if found.uid() != geteuid().as_raw() || found.mode() & OTHERS_WRITE != 0 => {
            limited(format!("others may write to {shown}: what is in it is not trusted"))
        }
        Ok(_) => match access(cache, AccessFlags::W_OK) {
            Ok(()) => Item::ok(NAME, shown),
            Err(error) => limited(format!("{shown}: {}", error.desc())),
        },
        Err(_) => {
            let above = cache.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("/"));
            match access(above, AccessFlags::W_OK) {
                Ok(()) if !above.is_dir() => limited(format!("{} is no directory", above.display())),
                Ok(()) => Item::ok(NAME, format!("{shown}, not there yet")),
                Err(error) => limited(format!("{shown} is not there; {}: {}", above.display(), error.desc())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::check::State;

    #[test]
    fn a_directory_of_our_own_or_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(None).state, State::Ok);
        assert_eq!(look(Some(dir.path())).state, State::Ok);
        let item = look(Some(&dir.path().join("a/b")));
        assert_eq!(item.state, State::Ok);
        assert!(item.seen.ends_with("a/b, not there yet"), "{item:?}");
        assert!(!dir.path().join("a").exists(), "a look makes nothing");

        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(look(Some(&file)).state, State::Limited);
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        let item = look(Some(&shared));
        assert!(item.state == State::Limited && item.seen.starts_with("others may write"), "{item:?}");
        let item = look(Some(&file.join("cache")));
        assert!(item.state == State::Limited && item.seen.ends_with("file is no directory"), "{item:?}");
    }
}

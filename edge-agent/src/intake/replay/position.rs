//! How far a file was replayed, in a small file of its own.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const HEAD: &str = "tributary replay position 1";

/// A place between two lines of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Before it.
    pub(super) bytes: u64,
    /// Before it.
    pub(super) lines: u64,
    /// Of the line before it.
    last_bytes: u64,
}

/// Where the position of one file is kept.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
}

impl Position {
    /// Goes on by a line.
    pub(super) fn step(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.lines += 1;
        self.last_bytes = bytes;
    }

    /// One line back; no further.
    pub(super) fn before_last(self) -> Position {
        Position {
            bytes: self.bytes - self.last_bytes,
            lines: self.lines.saturating_sub(1),
            last_bytes: 0,
        }
    }
}

impl Place {
    pub(super) fn new(data_dir: &Path, file: &Path) -> Place {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Place {
            path: data_dir.join(format!("replay-{name}.position")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The start of the file if nothing was kept yet.
    pub(super) fn load(&self) -> io::Result<Position> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Position::default()),
            read => read?,
        };
        let broken = || io::Error::other("it is damaged: remove it to begin at the start");
        let (head, rest) = text.split_once('\n').ok_or_else(broken)?;
        let (bytes, lines) = rest.trim_end().split_once(' ').ok_or_else(broken)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| broken());
        if head != HEAD {
            return Err(broken());
        }
        Ok(Position {
            bytes: number(bytes)?,
            lines: number(lines)?,
            last_bytes: 0,
        })
    }

    /// On disk when this returns; an old position is there until the new one is.
    pub(super) fn save(&self, position: Position) -> io::Result<()> {
        let new = self.path.with_extension("position-new");
        let mut file = fs::File::create(&new)?;
        writeln!(file, "{HEAD}\n{} {}", position.bytes, position.lines)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), Path::new("/x/trucks.csv"));
        assert_eq!(place.load().unwrap(), Position::default());
        let mut position = Position::default();
        position.step(10);
        position.step(7);
        assert_eq!((position.bytes, position.before_last().bytes), (17, 10));
        place.save(position).unwrap();
        let read = place.load().unwrap();
        assert_eq!((read.bytes, read.lines), (17, 2));
        for text in ["", "other\n1 2\n", "tributary replay position 1\n1\n"] {
            fs::write(place.path(), text).unwrap();
            assert!(
                place.load().unwrap_err().to_string().contains("remove"),
                "{text:?}"
            );
        }
    }
}

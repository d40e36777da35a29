//! The last full snapshots of repositories, kept in a file until all else is durable: there may be one for each repository.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};

use crate::store::Complete;

/// Writes to a file without a name, which is gone with this.
#[derive(Debug, Default)]
pub(super) struct Spill(Option<BufWriter<File>>);

impl Spill {
    pub(super) fn put(&mut self, did: &str, complete: &Complete) -> io::Result<()> {
        let file = match &mut self.0 {
            Some(file) => file,
            none => none.insert(BufWriter::new(tempfile::tempfile()?)),
        };
        serde_json::to_writer(&mut *file, &(did, complete))?;
        file.write_all(b"\n")
    }

    /// All that was put, in its order.
    pub(super) fn read(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(String, Complete)>> + Send> {
        let file = self.0.map(|file| -> io::Result<_> {
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(file)
        });
        let lines = file.transpose()?.into_iter().flat_map(|file| {
            serde_json::Deserializer::from_reader(BufReader::new(file)).into_iter()
        });
        Ok(lines.map(|line| line.map_err(io::Error::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Tid;

    #[test]
    fn what_is_put_comes_back_in_its_order() {
        assert_eq!(Spill::default().read().unwrap().count(), 0);
        let complete = |version| Complete {
            rev: Tid::new(version, 0),
            version,
            filter: "a.b.c".to_owned(),
        };
        let mut spill = Spill::default();
        let put: Vec<_> = (0..1000)
            .map(|n| (format!("did:web:{n}"), complete(n)))
            .collect();
        for (did, complete) in &put {
            spill.put(did, complete).unwrap();
        }
        let read: Vec<_> = spill.read().unwrap().map(Result::unwrap).collect();
        assert_eq!(read, put);
    }
}

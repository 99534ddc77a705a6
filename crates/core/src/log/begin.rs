//! How the next segment begins.

use std::io::{self, ErrorKind};

use super::directory::{Directory, SegmentFile};
use super::format::{Predecessor, SegmentHeader};
use super::index::Segment;
use super::{Create, QueueLog, recovery};

impl<D: Directory> QueueLog<D> {
    /// Creates the next segment, after which the one before it is closed.
    pub(super) fn begin_segment(&mut self, now_ms: u64, create: Create<D>) -> io::Result<()> {
        self.last_number += 1;
        let mut written = self.index.segments.iter().rev().filter(|s| !s.is_blank());
        let previous = written
            .next()
            .map_or_else(Predecessor::default, |last| Predecessor {
                number: last.number,
                bytes: last.bytes,
                end_seq: last.end_seq(),
            });
        let header = SegmentHeader {
            number: self.last_number,
            first_seq: self.first_buffered(),
            created_ms: now_ms,
            previous,
            queue: Some(self.queue.clone()),
            queue_created_ms: self.queue_created_ms,
            epoch: self.epoch,
        };
        let segment = Segment::new(header.number, header.first_seq, header.bytes());
        self.active = Some(self.create(&segment.name(), &header, create)?);
        let segments = &mut self.index.segments;
        if segments.back().is_some_and(Segment::is_blank)
            && let Some(blank) = segments.pop_back()
        {
            self.leftovers.push(blank.name());
        }
        self.index.segments.push_back(segment);
        // If that fails, the new header leaves them out.
        let _ = self.remove_leftovers();
        Ok(())
    }

    /// Whatever a former holder of the directory still appends is dead from here on: the new segment says
    /// where the one before it ends.
    pub(super) fn shut_out_former(&mut self, now_ms: u64) -> io::Result<()> {
        if self.directory.epoch() == 0 {
            return Ok(());
        }
        self.reserve()?;
        self.begin_segment(now_ms, D::create)
    }

    /// Removes the files without a record that are older than a segment.
    pub(super) fn remove_leftovers(&mut self) -> io::Result<()> {
        let newest = self.index.segments.back().map(Segment::name);
        while let Some(at) = self
            .leftovers
            .iter()
            .position(|name| Some(name) < newest.as_ref())
        {
            match self.directory.remove(&self.leftovers[at]) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => self.owes_sync = true,
            }
            self.leftovers.swap_remove(at);
        }
        Ok(())
    }

    fn is_free(&self, name: &str) -> bool {
        let found = self.directory.open(name);
        found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    fn create(
        &mut self,
        name: &str,
        header: &SegmentHeader,
        create: Create<D>,
    ) -> io::Result<D::File> {
        let mut is_free = self.is_free(name);
        let mut created = create(&self.directory, name);
        if let Err(error) = &created
            && error.kind() == ErrorKind::AlreadyExists
        {
            let why = "it has the name of the segment that was to be begun".to_owned();
            let refused = recovery::set_aside(&self.directory, name.to_owned(), why);
            self.refused.push(refused);
            is_free = self.is_free(name);
            created = create(&self.directory, name);
        }
        if created.is_err() && is_free && !self.is_free(name) {
            // It was made, and the disk failed all the same. What had the name before is somebody else's.
            self.leftovers.push(name.to_owned());
        }
        let file = created?;
        let written = file
            .write_at(0, &header.encode())
            .and_then(|()| file.sync())
            .and_then(|()| self.directory.sync());
        match written {
            Ok(()) => Ok(file),
            Err(error) => {
                if self.directory.remove(name).is_err() {
                    self.leftovers.push(name.to_owned());
                }
                Err(error)
            }
        }
    }
}

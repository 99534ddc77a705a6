//! The terminal: keys in, the screen out.

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::super::signals::StopFlag;
use super::poller::Poller;
use super::state::Top;
use super::view::render;
use crate::ambient::now;

/// How long a key, an answer or a signal may wait for the next look.
const LOOK: Duration = Duration::from_millis(50);

/// A terminal in our hands; it is given back as it was, however that ends. (A panic's message comes
/// after that too, by the hook that `ratatui` installs.)
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What keys asked for.
#[derive(PartialEq)]
enum Keys {
    None,
    Change,
    End,
}

/// Shows the daemon until a key or a signal ends that.
pub(super) fn run(mut top: Top, poller: &mut Poller, stop: &StopFlag) -> anyhow::Result<()> {
    let mut screen = Screen(ratatui::try_init()?);
    let mut stale = true;
    while !stop.is_set() {
        while let Some((at, answer)) = poller.next(Duration::ZERO) {
            top.observe(at, answer);
            stale = true;
        }
        if stale {
            screen.0.draw(|frame| render(frame, &top, now()))?;
        }
        match take_keys(&mut top)? {
            Keys::End => break,
            keys => stale = keys == Keys::Change,
        }
    }
    Ok(())
}

/// Takes the keys that are there, after waiting a little for the first. A new size of the terminal
/// is a change, too.
fn take_keys(top: &mut Top) -> io::Result<Keys> {
    let (mut wait, mut keys) = (LOOK, Keys::None);
    while event::poll(wait)? {
        (wait, keys) = (Duration::ZERO, Keys::Change);
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && !top.key(key)
        {
            return Ok(Keys::End);
        }
    }
    Ok(keys)
}

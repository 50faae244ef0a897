//! The circuits that a session runs over: one, two while it moves, none while
//! it waits for another.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use fairway_channel::PathId;
use fairway_control::link::CircuitId;

use crate::limits::ROUTES_MAX;
use crate::link::{Command, LinkShared};

/// One circuit of one link, as the session's path.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) path: PathId,
    pub(crate) link: Arc<LinkShared>,
    pub(crate) circuit: u32,
    /// The peer has shown itself there.
    pub(crate) is_proven: bool,
}

/// All routes of a session, for those who wake its drivers.
#[derive(Debug)]
pub(super) struct Routes(Mutex<Table>);

#[derive(Debug)]
struct Table {
    routes: Vec<Route>,
    next_path: u32,
    /// Who looks after the session while no driver does.
    keeper: Option<Waker>,
}

impl Routes {
    pub(super) fn new(link: Arc<LinkShared>, circuit: u32) -> Self {
        Self(Mutex::new(Table {
            routes: vec![Route {
                path: PathId::FIRST,
                link,
                circuit,
                is_proven: true,
            }],
            next_path: PathId::FIRST.0 + 1,
            keeper: None,
        }))
    }

    /// Another circuit. When there are too many, the oldest of those that were
    /// left is closed: its link may be dead without saying so, and the peer
    /// unable to close it. `None`: there is none such, and these are of somebody
    /// who pretends.
    pub(super) fn add(
        &self,
        link: Arc<LinkShared>,
        circuit: u32,
        active: Option<PathId>,
    ) -> Option<PathId> {
        let mut table = self.lock();
        if table.routes.len() >= ROUTES_MAX {
            let is_left = |route: &Route| route.is_proven && Some(route.path) != active;
            let left = table.routes.iter().position(is_left)?;
            let left = table.routes.remove(left);
            left.link.command(Command::Leave(CircuitId(left.circuit)));
        }
        let path = PathId(table.next_path);
        table.next_path = table.next_path.checked_add(1)?;
        table.routes.push(Route {
            path,
            link,
            circuit,
            is_proven: false,
        });
        Some(path)
    }

    pub(super) fn remove(&self, path: PathId) -> Option<Route> {
        let mut table = self.lock();
        let at = table.routes.iter().position(|route| route.path == path)?;
        Some(table.routes.remove(at))
    }

    pub(super) fn get(&self, path: PathId) -> Option<Route> {
        let table = self.lock();
        let found = table.routes.iter().find(|route| route.path == path);
        found.cloned()
    }

    pub(super) fn prove(&self, path: PathId) {
        let mut table = self.lock();
        for route in &mut table.routes {
            route.is_proven |= route.path == path;
        }
    }

    /// Whether more than one driver has the session.
    pub(super) fn are_many(&self) -> bool {
        self.lock().routes.len() > 1
    }

    pub(super) fn all(&self) -> Vec<Route> {
        self.lock().routes.clone()
    }

    /// Wakes everybody who drives the session.
    pub(super) fn wake(&self) {
        let mut table = self.lock();
        let keeper = table.keeper.take();
        for route in &table.routes {
            route.link.wake_for(route.circuit);
        }
        drop(table);
        if let Some(keeper) = keeper {
            keeper.wake();
        }
    }

    /// Everybody who drives the session will look after it before long. Without
    /// a driver nothing is sent anyway.
    pub(super) fn wake_soon(&self) {
        for route in &self.lock().routes {
            route.link.wake_soon_for(route.circuit);
        }
    }

    /// Wakes who drives this path.
    pub(super) fn wake_path(&self, path: PathId) {
        let table = self.lock();
        if let Some(route) = table.routes.iter().find(|route| route.path == path) {
            route.link.wake_for(route.circuit);
        }
    }

    pub(super) fn register_keeper(&self, waker: &Waker) {
        self.lock().keeper = Some(waker.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no panic while the lock is held")
    }
}

//! What the clients were given, kept by somebody who knows nothing of how the service does it.

use ioasid::model::Pasid;
use std::collections::HashMap;
use std::sync::Mutex;

/// A random number generator; small, and the same everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let bound = u64::try_from(of.len()).unwrap();
        (bound > 0).then(|| of[usize::try_from(self.below(bound)).unwrap()])
    }
}

/// Whose an id is: a client's number, and the name of the cgroup that pays for it.
type Owner = (usize, String);

/// Who has which id, over all clients. An id is struck out before it is given back, and entered after it was given.
#[derive(Default)]
pub struct Book(Mutex<HashMap<u32, Owner>>);

impl Book {
    pub fn enter(&self, client: usize, cgroup: &str, id: Pasid) {
        let before = self.0.lock().unwrap().insert(id.get(), (client, cgroup.to_owned()));
        assert_eq!(before, None, "id {id} has two owners, the second is client {client}");
    }

    pub fn strike(&self, client: usize, id: Pasid) {
        let owner = self.0.lock().unwrap().remove(&id.get()).map(|(owner, _)| owner);
        assert_eq!(owner, Some(client), "id {id}");
    }

    /// Another cgroup pays for all ids of a client from now on.
    pub fn move_to(&self, client: usize, cgroup: &str) {
        let mut owners = self.0.lock().unwrap();
        owners.values_mut().filter(|(owner, _)| *owner == client).for_each(|(_, payer)| cgroup.clone_into(payer));
    }

    /// How many ids are out.
    pub fn out(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    /// How many ids the cgroup with this name pays for.
    pub fn paid_by(&self, cgroup: &str) -> u64 {
        self.0.lock().unwrap().values().filter(|(_, payer)| payer == cgroup).count() as u64
    }
}

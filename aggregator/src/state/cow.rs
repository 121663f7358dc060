//! Collections that readers share: a clone costs a few hundred reference counts, and changing one
//! element copies only its neighbourhood. `View`s hold clones while `apply` goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

const SHARDS: usize = 64;
const PAGE: usize = 256;

/// A map in shards. The shard of a key follows from its bytes alone, so it is the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct CowMap<K: ShardKey + Ord + Clone, V: Clone> {
    shards: Arc<Vec<Arc<BTreeMap<K, V>>>>,
}

/// What a key is spread by.
pub(crate) trait ShardKey {
    fn shard_bytes(&self) -> &[u8];
}

impl ShardKey for Box<[u8]> {
    fn shard_bytes(&self) -> &[u8] {
        self
    }
}

impl ShardKey for shared::id::AgentId {
    fn shard_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

/// FNV-1a.
fn shard_of(bytes: &[u8]) -> usize {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    });
    usize::try_from(hash % SHARDS as u64).expect("below SHARDS")
}

impl<K: ShardKey + Ord + Clone, V: Clone> CowMap<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            shards: Arc::new((0..SHARDS).map(|_| Arc::default()).collect()),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.shards[shard_of(key.shard_bytes())].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.shard_mut(&key).insert(key, value);
    }

    pub(crate) fn entry_or(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        self.shard_mut(key).entry(key.clone()).or_insert_with(make)
    }

    /// All entries, sorted by key.
    pub(crate) fn sorted(&self) -> Vec<(&K, &V)> {
        let mut all: Vec<_> = self.shards.iter().flat_map(|shard| shard.iter()).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(b.0));
        all
    }

    fn shard_mut(&mut self, key: &K) -> &mut BTreeMap<K, V> {
        let shard = shard_of(key.shard_bytes());
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard])
    }
}

/// A list in pages, appended at the end.
#[derive(Debug, Clone)]
pub(crate) struct CowList<T: Clone> {
    pages: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T: Clone> CowList<T> {
    pub(crate) fn new() -> Self {
        Self {
            pages: Arc::new(Vec::new()),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.pages.get(at / PAGE)?.get(at % PAGE)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        Arc::make_mut(&mut Arc::make_mut(&mut self.pages)[at / PAGE]).get_mut(at % PAGE)
    }

    pub(crate) fn push(&mut self, item: T) {
        let pages = Arc::make_mut(&mut self.pages);
        if self.len.is_multiple_of(PAGE) {
            pages.push(Arc::new(Vec::with_capacity(PAGE)));
        }
        let last = pages
            .last_mut()
            .expect("a page was just made where none had room");
        Arc::make_mut(last).push(item);
        self.len += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut map: CowMap<Box<[u8]>, u32> = CowMap::new();
        let mut list = CowList::new();
        for n in 0..1000_u32 {
            map.insert(n.to_le_bytes().into(), n);
            list.push(n);
        }
        let (old_map, old_list) = (map.clone(), list.clone());
        *map.entry_or(&7_u32.to_le_bytes().into(), || 0) = 70;
        *list.get_mut(7).unwrap() = 70;
        list.push(1000);
        assert_eq!(old_map.get(&7_u32.to_le_bytes().into()), Some(&7));
        assert_eq!(map.get(&7_u32.to_le_bytes().into()), Some(&70));
        assert_eq!((old_list.get(7), old_list.len()), (Some(&7), 1000));
        assert_eq!(
            (list.get(7), list.len(), list.get(1000)),
            (Some(&70), 1001, Some(&1000))
        );
        assert!(list.get_mut(1001).is_none());
        assert_eq!(old_list.iter().count(), 1000);
        let keys: Vec<_> = map.sorted().into_iter().map(|(k, _)| k.clone()).collect();
        assert!(keys.is_sorted());
    }
}

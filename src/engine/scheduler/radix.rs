//! A radix tree over blocks of tokens: which prefixes the KV cache holds, and which slots hold them.
//!
//! A node is one block of [`BLOCK`] tokens after all those of its parents; its cells exist once,
//! however many slots hold them. Who holds a node holds all its parents. Each scope has a tree of
//! its own: what one adapter has computed is wrong for another, and one tenant must not learn from
//! timings what another has asked. Must not know: requests, the decoder, why something is kept.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{SeqId, Token};

/// Tokens in a node. Smaller finds more (a match loses half a block on average) and costs more
/// nodes; 8 loses 3 % of a prompt of 128 tokens.
pub const BLOCK: usize = 8;

/// Who may share with whom: an adapter's number, and a name within it.
pub(super) type Scope = (usize, Arc<str>);

type Key = [Token; BLOCK];

/// A node's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeId(u32);

#[derive(Clone, Debug)]
struct Node {
    /// None for the root of a scope, which is no block.
    parent: Option<(NodeId, Key)>,
    scope: Scope,
    children: HashMap<Key, NodeId>,
    holders: Vec<SeqId>,
    /// How many of the holders compute for a request.
    live: usize,
}

/// The trees of all scopes.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    unused: Vec<NodeId>,
    roots: HashMap<Scope, NodeId>,
    blocks: usize,
    live_blocks: usize,
}

impl Tree {
    /// Blocks in all trees.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Blocks that some request needs now.
    pub(super) fn live_blocks(&self) -> usize {
        self.live_blocks
    }

    /// The root of a scope, which is made if it is not there. It lives as long as it is held.
    pub(super) fn root(&mut self, scope: &Scope) -> NodeId {
        if let Some(&root) = self.roots.get(scope) {
            return root;
        }
        let root = self.make(None, scope);
        self.roots.insert(scope.clone(), root);
        root
    }

    /// The nodes that hold the beginning of these tokens, the root first; none if the scope is
    /// unknown.
    pub(super) fn walk(&self, scope: &Scope, tokens: &[Token]) -> Vec<NodeId> {
        let Some(&root) = self.roots.get(scope) else { return Vec::new() };
        let mut path = vec![root];
        for block in tokens.as_chunks::<BLOCK>().0 {
            match self.child(path[path.len() - 1], block) {
                Some(node) => path.push(node),
                None => break,
            }
        }
        path
    }

    /// The node for a block after this node.
    pub(super) fn child(&self, node: NodeId, block: &Key) -> Option<NodeId> {
        self.node(node).children.get(block).copied()
    }

    /// A new node for a block after this node.
    pub(super) fn insert(&mut self, parent: NodeId, block: Key) -> NodeId {
        let scope = self.node(parent).scope.clone();
        let node = self.make(Some((parent, block)), &scope);
        let old = self.node_mut(parent).children.insert(block, node);
        debug_assert!(old.is_none(), "each block is there once");
        self.blocks += 1;
        node
    }

    /// The slot holds this node from now on.
    pub(super) fn hold(&mut self, id: NodeId, slot: SeqId, live: bool) {
        let node = self.node_mut(id);
        node.holders.push(slot);
        if live {
            self.revive(id);
        }
    }

    /// The slot does not hold this node any more; with its last holder it goes.
    pub(super) fn release(&mut self, id: NodeId, slot: SeqId, live: bool) {
        if live {
            self.retire(id);
        }
        let node = self.node_mut(id);
        let index = node.holders.iter().position(|&holder| holder == slot);
        node.holders.swap_remove(index.expect("who releases a node holds it"));
        if !node.holders.is_empty() {
            return;
        }
        debug_assert!(node.children.is_empty(), "who holds a child holds its parent");
        if let Some((parent, key)) = node.parent.take() {
            self.node_mut(parent).children.remove(&key);
            self.blocks -= 1;
        } else {
            let scope = self.node(id).scope.clone();
            self.roots.remove(&scope);
        }
        self.unused.push(id);
    }

    /// A holder of this node begins to compute for a request.
    pub(super) fn revive(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.live += 1;
        let block = usize::from(node.live == 1 && node.parent.is_some());
        self.live_blocks += block;
    }

    /// A holder of this node does so no more.
    pub(super) fn retire(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.live -= 1;
        let block = usize::from(node.live == 0 && node.parent.is_some());
        self.live_blocks -= block;
    }

    /// Some slot that holds this node.
    pub(super) fn holder(&self, id: NodeId) -> SeqId {
        *self.node(id).holders.first().expect("a node is held")
    }

    /// Whether nobody but one slot holds this node.
    pub(super) fn is_exclusive(&self, id: NodeId) -> bool {
        self.node(id).holders.len() == 1
    }

    /// Whether some request needs this node now.
    pub(super) fn is_live(&self, id: NodeId) -> bool {
        self.node(id).live > 0
    }

    /// The node's own tokens; none for a root.
    pub(super) fn block(&self, id: NodeId) -> &[Token] {
        self.node(id).parent.as_ref().map_or(&[], |(_, key)| key)
    }

    /// The scope in which the node stands.
    pub(super) fn scope(&self, id: NodeId) -> &Scope {
        &self.node(id).scope
    }

    fn make(&mut self, parent: Option<(NodeId, Key)>, scope: &Scope) -> NodeId {
        let scope = scope.clone();
        let node = Node { parent, scope, children: HashMap::new(), holders: Vec::new(), live: 0 };
        if let Some(id) = self.unused.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// How often each node is held, for whoever checks the books.
    pub(super) fn holds(&self) -> HashMap<NodeId, (usize, usize)> {
        let unused: std::collections::HashSet<NodeId> = self.unused.iter().copied().collect();
        let ids = (0..self.nodes.len() as u32).map(NodeId).filter(|id| !unused.contains(id));
        ids.map(|id| (id, (self.node(id).holders.len(), self.node(id).live))).collect()
    }
}

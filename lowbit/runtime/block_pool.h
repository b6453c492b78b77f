// SPDX-License-Identifier: Apache-2.0
// Which blocks of a KV cache are in use, and what the others still hold. A full block can be given
// a name: the tokens in it and the block before it, and so the whole text up to its end. Named
// blocks stay findable after their last owner has gone, until something else needs the room, the
// least recently used first.
//
// The name is found by a hash over the chain (XXH3-128), but what is found is also compared: the
// tokens, and that the block before is the very block that the caller has. That suffices, because
// a block is never forgotten before those that follow it: an owner of a block owns what is before
// it, and gives its blocks back last one first. So no collision, made on purpose or not, gives a
// sequence another one's keys. Bookkeeping only: knows no pages and no backend.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lowbit {

using BlockId = std::int32_t;
inline constexpr BlockId no_block = -1;

struct ChainHash {
  std::uint64_t low = 0, high = 0;
  bool operator==(const ChainHash&) const = default;
};
using ChainHashFunction = ChainHash (*)(const ChainHash& before,
                                        std::span<const std::int32_t> tokens);
ChainHash hash_chain(const ChainHash& before, std::span<const std::int32_t> tokens);

/// What a block holds: these tokens, after the content of `before`; the first block of a text has
/// no block before it, and its salt keeps the texts of those apart who must not share.
struct BlockContent {
  BlockId before = no_block;
  std::string_view salt = {};  // counts in first blocks
  std::span<const std::int32_t> tokens;
};

class BlockPool {
 public:
  explicit BlockPool(std::int64_t n_blocks, ChainHashFunction hash = hash_chain);

  /// A block with one owner and no name. Nothing when every block has an owner.
  std::optional<BlockId> take();
  /// One owner more, the first one too.
  void share(BlockId block);
  /// One owner less. Whoever owns several gives back the last one of the text first.
  void release(BlockId block);

  std::optional<BlockId> find(const BlockContent& content) const;
  /// Says what an owned block without a name holds; content.before, if any, is owned and named.
  /// Gives the block that has the name: another one if the same content was named before. Nothing,
  /// and the block stays without a name, when another content has the same hash.
  std::optional<BlockId> name(BlockId block, const BlockContent& content);

  bool has_owner(BlockId block) const { return node(block).n_owners > 0; }
  bool is_named(BlockId block) const { return node(block).is_named; }
  std::int64_t n_blocks() const { return static_cast<std::int64_t>(nodes_.size()) - 1; }
  /// Without an owner, with or without a name.
  std::int64_t n_free() const { return n_free_; }
  /// Of them, those that can still be found.
  std::int64_t n_free_named() const { return n_free_named_; }

 private:
  struct Node {
    std::int32_t n_owners = 0, n_followers = 0;    // followers: named blocks after this one
    BlockId previous = no_block, next = no_block;  // in the list of free blocks
    bool is_named = false;
    BlockId before = no_block;
    ChainHash hash;
    std::string salt;
    std::vector<std::int32_t> tokens;
  };
  struct HashOfHash {
    std::size_t operator()(const ChainHash& hash) const {
      return static_cast<std::size_t>(hash.low);
    }
  };

  Node& node(BlockId block) { return nodes_[static_cast<std::size_t>(block)]; }
  const Node& node(BlockId block) const { return nodes_[static_cast<std::size_t>(block)]; }
  BlockId list_end() const { return static_cast<BlockId>(n_blocks()); }
  void put_free(BlockId block, BlockId before);
  void take_free(BlockId block);
  void forget(BlockId block);
  ChainHash hash_of(const BlockContent& content) const;
  bool holds(BlockId block, const BlockContent& content) const;

  std::vector<Node> nodes_;  // the last one is the end of the list of free blocks
  std::unordered_map<ChainHash, BlockId, HashOfHash> named_;
  ChainHashFunction hash_;
  std::int64_t n_free_ = 0, n_free_named_ = 0;
};

}  // namespace lowbit

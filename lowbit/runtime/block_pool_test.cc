// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/block_pool.h"

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace lowbit {
namespace {

using Tokens = std::vector<std::int32_t>;

/// Every content has the same hash.
ChainHash same_hash(const ChainHash&, std::span<const std::int32_t>) {
  return {1, 2};
}
/// Two bits are left of the hash.
ChainHash short_hash(const ChainHash& before, std::span<const std::int32_t> tokens) {
  return {hash_chain(before, tokens).low & 3, 0};
}

TEST(BlockPool, HashDependsOnEveryTokenItsPlaceAndWhatIsBefore) {
  const Tokens tokens{3, 1, 4, 1, 5};
  const ChainHash hash = hash_chain({7, 8}, tokens);
  EXPECT_EQ(hash, hash_chain({7, 8}, tokens));
  EXPECT_FALSE(hash == hash_chain({7, 9}, tokens));
  EXPECT_FALSE(hash == hash_chain({8, 8}, tokens));
  EXPECT_FALSE(hash == hash_chain({7, 8}, Tokens{1, 3, 4, 1, 5}));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    Tokens other = tokens;
    other[i] += 1 << 30;
    EXPECT_FALSE(hash == hash_chain({7, 8}, other)) << i;
  }
}

TEST(BlockPool, FindsWhatWasNamedUntilTheRoomIsNeeded) {
  BlockPool pool(3);
  const Tokens first{1, 2}, second{3, 4};
  const BlockId a = *pool.take(), b = *pool.take();
  EXPECT_FALSE(pool.find({.tokens = first}));
  EXPECT_EQ(pool.name(a, {.tokens = first}), a);
  EXPECT_EQ(pool.name(b, {.before = a, .tokens = second}), b);
  EXPECT_EQ(pool.find({.tokens = first}), a);
  EXPECT_EQ(pool.find({.before = a, .tokens = second}), b);
  EXPECT_FALSE(pool.find({.tokens = second}));                // other things before it
  EXPECT_FALSE(pool.find({.salt = "key", .tokens = first}));  // another's
  EXPECT_FALSE(pool.find({.before = b, .tokens = first}));
  pool.release(b);
  pool.release(a);
  EXPECT_EQ(pool.n_free(), 3);
  EXPECT_EQ(pool.n_free_named(), 2);
  EXPECT_EQ(pool.find({.before = a, .tokens = second}), b);
  // First the block without a name, then the end of the chain, then its beginning.
  const BlockId c = *pool.take();
  EXPECT_TRUE(c != a && c != b);
  EXPECT_EQ(pool.take(), b);
  EXPECT_FALSE(pool.find({.before = a, .tokens = second}));
  EXPECT_EQ(pool.find({.tokens = first}), a);
  EXPECT_EQ(pool.take(), a);
  EXPECT_FALSE(pool.find({.tokens = first}));
  EXPECT_FALSE(pool.take());
  EXPECT_EQ(pool.n_free(), 0);
}

TEST(BlockPool, OwnersKeepABlock) {
  BlockPool pool(2);
  const Tokens tokens{9};
  const BlockId a = *pool.take();
  ASSERT_TRUE(pool.name(a, {.tokens = tokens}));
  pool.share(a);
  pool.release(a);
  EXPECT_TRUE(pool.has_owner(a));
  const BlockId b = *pool.take();
  EXPECT_FALSE(pool.take());
  pool.release(a);
  EXPECT_FALSE(pool.has_owner(a));
  pool.share(a);  // found again
  EXPECT_EQ(pool.n_free(), 0);
  EXPECT_FALSE(pool.take());
  pool.release(a);
  pool.release(b);
  EXPECT_EQ(pool.take(), b);
}

TEST(BlockPool, TheLeastRecentlyUsedGoesFirst) {
  BlockPool pool(3);
  const std::array<Tokens, 3> texts{Tokens{1}, Tokens{2}, Tokens{3}};
  std::vector<BlockId> blocks;
  for (const Tokens& text : texts) {
    blocks.push_back(*pool.take());
    ASSERT_TRUE(pool.name(blocks.back(), {.tokens = text}));
  }
  for (const BlockId block : blocks) pool.release(block);
  pool.share(blocks[0]);
  pool.release(blocks[0]);
  EXPECT_EQ(pool.take(), blocks[1]);
  EXPECT_EQ(pool.take(), blocks[2]);
  EXPECT_EQ(pool.take(), blocks[0]);
}

TEST(BlockPool, TheSameContentHasOneNameAndCollisionsNone) {
  BlockPool pool(4);
  const Tokens tokens{1, 2};
  const BlockId a = *pool.take(), b = *pool.take();
  EXPECT_EQ(pool.name(a, {.tokens = tokens}), a);
  EXPECT_EQ(pool.name(b, {.tokens = tokens}), a);
  EXPECT_FALSE(pool.is_named(b));

  BlockPool colliding(4, same_hash);
  const BlockId c = *colliding.take(), d = *colliding.take();
  EXPECT_EQ(colliding.name(c, {.tokens = tokens}), c);
  EXPECT_FALSE(colliding.name(d, {.tokens = Tokens{1, 3}}));
  EXPECT_FALSE(colliding.find({.tokens = Tokens{1, 3}}));
  EXPECT_FALSE(colliding.find({.salt = "key", .tokens = tokens}));
  EXPECT_FALSE(colliding.find({.before = c, .tokens = tokens}));
  EXPECT_EQ(colliding.find({.tokens = tokens}), c);
}

/// Owners of chains come and go at random, with good hashes and with hashes that collide all the
/// time: whatever is found holds what was asked for, and nothing that has an owner is handed out.
TEST(BlockPool, RandomOwnersNeverGetAnothersBlock) {
  for (const ChainHashFunction hash : {hash_chain, short_hash, same_hash}) {
    std::mt19937 random(5);
    const auto draw = [&](std::uint32_t n) { return random() % n; };
    BlockPool pool(12, hash);
    struct Owner {
      Tokens text;  // a token a block
      std::vector<BlockId> blocks;
      std::size_t n_named = 0;
    };
    std::vector<Owner> owners(5);
    std::map<BlockId, Tokens> holds;  // the text up to the end of a block, as it was written
    std::int64_t n_found = 0;
    for (int round = 0; round < 20000; ++round) {
      Owner& owner = owners[draw(static_cast<std::uint32_t>(owners.size()))];
      if (draw(6) == 0 || owner.text.size() == 6) {
        for (std::size_t i = owner.blocks.size(); i > 0; --i) pool.release(owner.blocks[i - 1]);
        owner = {};
        continue;
      }
      owner.text.push_back(static_cast<std::int32_t>(draw(2)));
      const std::span token = std::span(owner.text).last(1);
      const bool is_chain = owner.n_named == owner.blocks.size();
      const BlockContent content{.before = owner.blocks.empty() ? no_block : owner.blocks.back(),
                                 .tokens = token};
      if (is_chain) {
        if (const auto found = pool.find(content)) {
          ASSERT_EQ(holds[*found], owner.text);
          pool.share(*found);
          owner.blocks.push_back(*found);
          ++owner.n_named;
          ++n_found;
          continue;
        }
      }
      const auto block = pool.take();
      if (!block) {
        owner.text.pop_back();
        continue;
      }
      for (const Owner& other : owners) {
        ASSERT_TRUE(std::ranges::find(other.blocks, *block) == other.blocks.end());
      }
      holds[*block] = owner.text;
      owner.blocks.push_back(*block);
      if (is_chain && pool.name(*block, content) == block) ++owner.n_named;
    }
    EXPECT_GT(n_found, hash == hash_chain ? 1000 : 0);
    std::set<BlockId> owned;
    for (const Owner& owner : owners) owned.insert(owner.blocks.begin(), owner.blocks.end());
    EXPECT_EQ(pool.n_free(), pool.n_blocks() - std::ssize(owned));
  }
}

}  // namespace
}  // namespace lowbit

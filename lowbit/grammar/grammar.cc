// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/grammar.h"

#include <algorithm>

namespace lowbit {
namespace {

constexpr std::size_t max_nodes = 300'000, max_states = 600'000;
constexpr int no_text = max_grammar_depth + 1;

// The least height by what is known of the children's.
int height_of(const GrammarNode& node, const std::vector<int>& heights,
              const std::vector<std::uint32_t>& rules, const std::vector<GrammarText>& texts) {
  switch (node.kind) {
    case GrammarNode::Kind::text:
      return texts[node.id].dfa.is_empty() ? no_text : 0;
    case GrammarNode::Kind::sequence: {
      int height = 0;
      for (const std::uint32_t child : node.children) height = std::max(height, heights[child]);
      return height;
    }
    case GrammarNode::Kind::choice: {
      int height = no_text;
      for (const std::uint32_t child : node.children) height = std::min(height, heights[child]);
      return height;
    }
    case GrammarNode::Kind::repeat:
      return node.min == 0 ? 0 : heights[node.children[0]];
    case GrammarNode::Kind::rule:
      return std::min(no_text, heights[rules[node.id]] + 1);
  }
  return no_text;
}

}  // namespace

GrammarBuilder::Node GrammarBuilder::add(GrammarNode node) {
  n_children_ += node.children.size();
  grammar_.nodes_.push_back(std::move(node));
  return static_cast<Node>(grammar_.nodes_.size() - 1);
}

GrammarBuilder::Node GrammarBuilder::text(Dfa dfa, StringPart part) {
  n_states_ += dfa.states.size();
  grammar_.texts_.push_back({std::move(dfa), part});
  return add({.kind = GrammarNode::Kind::text,
              .id = static_cast<std::uint32_t>(grammar_.texts_.size() - 1)});
}

GrammarBuilder::Node GrammarBuilder::literal(std::string_view bytes) {
  if (const auto known = literals_.find(bytes); known != literals_.end()) return known->second;
  Dfa dfa;
  dfa.states.resize(bytes.size() + 1);
  for (std::uint32_t i = 0; i < bytes.size(); ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    dfa.states[i].edges.push_back({byte, byte, i + 1});
  }
  dfa.states.back().is_accepting = true;
  const Node node = text(std::move(dfa));
  literals_.emplace(bytes, node);
  return node;
}

GrammarBuilder::Node GrammarBuilder::sequence(std::vector<Node> parts) {
  if (parts.size() == 1) return parts[0];
  return add({.kind = GrammarNode::Kind::sequence, .children = std::move(parts)});
}

GrammarBuilder::Node GrammarBuilder::choice(std::vector<Node> alternatives) {
  if (alternatives.size() == 1) return alternatives[0];
  return add({.kind = GrammarNode::Kind::choice, .children = std::move(alternatives)});
}

GrammarBuilder::Node GrammarBuilder::repeat(Node child, std::uint32_t min, std::uint32_t max) {
  return add({.kind = GrammarNode::Kind::repeat, .children = {child}, .min = min, .max = max});
}

std::uint32_t GrammarBuilder::add_rule() {
  grammar_.rules_.push_back(0);
  return static_cast<std::uint32_t>(grammar_.rules_.size() - 1);
}

GrammarBuilder::Node GrammarBuilder::rule(std::uint32_t rule) {
  return add({.kind = GrammarNode::Kind::rule, .id = rule});
}

bool GrammarBuilder::is_too_large() const {
  return grammar_.nodes_.size() + n_children_ > max_nodes || n_states_ > max_states;
}

Result<std::shared_ptr<const Grammar>> GrammarBuilder::finish(Node root,
                                                              const std::vector<Needed>& needed) {
  if (is_too_large()) return Error("the schema is too large");
  // After round k every height below k is known, so that no more rounds than the limit are needed.
  std::vector<int>& heights = grammar_.heights_;
  heights.assign(grammar_.nodes_.size(), no_text);
  bool has_changed = true;
  while (has_changed) {
    has_changed = false;
    for (std::size_t i = 0; i < heights.size(); ++i) {
      const int height = height_of(grammar_.nodes_[i], heights, grammar_.rules_, grammar_.texts_);
      has_changed |= height != heights[i];
      heights[i] = height;
    }
  }
  const Error none("no document of at most " + std::to_string(max_grammar_depth) +
                   " levels can satisfy the schema");
  for (const auto& [node, place] : needed) {
    if (heights[node] >= no_text) return Error(none).in(place);
  }
  if (heights[root] >= no_text) return none;
  grammar_.root_ = root;
  return std::make_shared<const Grammar>(std::move(grammar_));
}

}  // namespace lowbit

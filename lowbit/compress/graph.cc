// SPDX-License-Identifier: Apache-2.0
// The trace is a list of values in single-assignment form; folds and streams are read off it.
#include "lowbit/compress/graph.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "lowbit/base/assert.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/kv_cache.h"

namespace lowbit {
namespace {

enum class Op : std::uint8_t { input, embed, norm, head_norm, product, rope, attention, gate, add };

/// A value and what made it. inputs: norm, product, rope {x}; attention {q, k, v}; gate {gate, up};
/// add {x, y}.
struct Node {
  Op op = Op::input;
  std::vector<std::size_t> inputs;
  std::string weight, bias;
  std::int64_t width = 0;
};

struct TraceTensor final : Tensor {
  std::string name;  // of a vector of the model
  std::size_t value = 0;
};
struct TraceWeight final : Weight {
  std::string name;
};
struct TracePool final : KvPool {
  std::int64_t head_dim = 0;
  std::map<std::int32_t, std::pair<std::size_t, std::size_t>> stored;  // page -> k, v
};

/// The elementary verbs alone: the others are these in a row, and the base class says how.
class TraceBackend final : public Backend {
 public:
  /// The tensor that is being loaded; whatever is made next is it.
  std::string loading;
  std::vector<Node> nodes;
  std::int64_t head_dim = 0;

  std::string_view name() const override { return "trace"; }

  std::unique_ptr<Tensor> make_tensor(std::int64_t n_rows, std::int64_t n_cols) override {
    auto tensor = std::make_unique<TraceTensor>();
    tensor->rows = tensor->capacity = n_rows;
    tensor->cols = n_cols;
    tensor->name = std::exchange(loading, {});
    return tensor;
  }
  void upload(std::span<const float>, Tensor& to) override {
    set(to, {.op = Op::input, .inputs = {}, .weight = {}, .bias = {}});
  }
  void download(const Tensor&, std::span<float> to) override { std::ranges::fill(to, 0.0f); }

  Result<std::unique_ptr<Weight>> pack(const QuantizedTensor& tensor,
                                       std::optional<Activations>) override {
    return weight_of(tensor.rows, tensor.cols);
  }
  Result<std::unique_ptr<Weight>> pack(const RowSource& rows, std::optional<Activations>) override {
    return weight_of(rows.rows, rows.cols);
  }
  Result<std::unique_ptr<Weight>> adopt(PackedMatrix packed, std::optional<Activations>) override {
    return weight_of(packed.rows(), packed.cols());
  }
  const PackedMatrix* packed_form(const Weight&) const override { return nullptr; }
  std::string kernel_name(const Weight&, std::int64_t) const override { return "trace"; }
  Result<std::unique_ptr<KvPool>> make_kv_pool(KvKind kind, std::int64_t, std::int64_t n_head_dim,
                                               std::int64_t n_pages) override {
    auto pool = std::make_unique<TracePool>();
    pool->kind = kind;
    pool->n_pages = n_pages;
    pool->head_dim = head_dim = n_head_dim;
    return std::unique_ptr<KvPool>(std::move(pool));
  }

  void embed(const Weight& table, std::span<const std::int32_t>, Tensor& y) override {
    set(y, {.op = Op::embed, .inputs = {}, .weight = name_of(table), .bias = {}});
  }
  void gather(const Tensor& x, std::span<const std::int32_t>, Tensor& y) override {
    static_cast<TraceTensor&>(y).value = value_of(x);
  }
  void rms_norm(const Tensor& x, const Tensor& w, float, Tensor& y) override {
    set(y, {.op = w.cols == x.cols ? Op::norm : Op::head_norm,
            .inputs = {value_of(x)},
            .weight = static_cast<const TraceTensor&>(w).name,
            .bias = {}});
  }
  void matmul(const Tensor& x, std::span<const Product> products) override {
    const std::size_t from = value_of(x);
    for (const Product& product : products) {
      Node node{.op = Op::product, .inputs = {from}, .weight = name_of(*product.w), .bias = {}};
      if (product.bias != nullptr) node.bias = static_cast<const TraceTensor&>(*product.bias).name;
      set(*product.y, std::move(node));
    }
  }
  void rope(Tensor& x, std::int64_t, const Tensor&, const Tensor&) override {
    set(x, {.op = Op::rope, .inputs = {value_of(x)}, .weight = {}, .bias = {}});
  }
  void kv_zero(KvPool&, std::span<const std::int32_t>) override {}
  void kv_store(KvPool& pool, const Tensor& k, const Tensor& v,
                std::span<const SequenceRows> sequences) override {
    for (const SequenceRows& sequence : sequences) {
      for (const std::int32_t page : sequence.pages) {
        static_cast<TracePool&>(pool).stored[page] = {value_of(k), value_of(v)};
      }
    }
  }
  void attention(const KvPool& pool, const Tensor& q, std::span<const SequenceRows> sequences,
                 Tensor& y) override {
    const auto [k, v] =
        static_cast<const TracePool&>(pool).stored.at(sequences.front().pages.front());
    set(y, {.op = Op::attention, .inputs = {value_of(q), k, v}, .weight = {}, .bias = {}});
  }
  void silu_mul(Tensor& gate, const Tensor& up) override {
    set(gate, {.op = Op::gate, .inputs = {value_of(gate), value_of(up)}, .weight = {}, .bias = {}});
  }
  void add(Tensor& x, const Tensor& y) override {
    set(x, {.op = Op::add, .inputs = {value_of(x), value_of(y)}, .weight = {}, .bias = {}});
  }

 private:
  static std::size_t value_of(const Tensor& tensor) {
    return static_cast<const TraceTensor&>(tensor).value;
  }
  static const std::string& name_of(const Weight& weight) {
    return static_cast<const TraceWeight&>(weight).name;
  }
  void set(Tensor& tensor, Node node) {
    node.width = tensor.cols;
    static_cast<TraceTensor&>(tensor).value = nodes.size();
    nodes.push_back(std::move(node));
  }
  std::unique_ptr<Weight> weight_of(std::int64_t rows, std::int64_t cols) {
    auto weight = std::make_unique<TraceWeight>();
    weight->rows = rows;
    weight->cols = cols;
    weight->name = std::exchange(loading, {});
    return weight;
  }
};

/// The names and shapes of a source without its numbers.
class ShapesOnly final : public TensorSource {
 public:
  ShapesOnly(const TensorSource& source, std::string& loading)
      : source_(source), loading_(loading) {}
  const ModelConfig& config() const override { return source_.config(); }
  std::optional<Shape> shape(std::string_view name) const override { return source_.shape(name); }
  Result<QuantizedTensor> load(std::string_view name) const override {
    loading_ = name;
    const Shape shape = source_.shape(name).value_or(Shape{});
    const std::vector<float> zeros(static_cast<std::size_t>(shape.rows * shape.cols));
    return encode_plain(zeros, *parse_scheme("f32"), shape.rows, shape.cols);
  }
  std::optional<RowSource> rows(std::string_view name) const override {
    const auto shape = source_.shape(name);
    if (!shape) return std::nullopt;
    loading_ = name;
    return RowSource{
        *parse_scheme("f32"), shape->rows, shape->cols,
        [](std::int64_t, std::int64_t, QuantizedTensor&) { LOWBIT_ASSERT(!"nothing is read"); }};
  }
  void drop(std::string_view) const override {}

 private:
  const TensorSource& source_;
  std::string& loading_;
};

Result<std::vector<Node>> trace(const TensorSource& source, std::int64_t& head_dim) {
  TraceBackend backend;
  const ShapesOnly shapes(source, backend.loading);
  auto weights = load_weights(shapes, backend, {});
  if (!weights) return std::move(weights).error();
  const ModelConfig& config = source.config();
  auto cache = KvCache::create(
      backend, {KvKind::f32, config.n_layers, config.n_kv_heads, config.head_dim}, 1);
  if (!cache) return std::move(cache).error();
  KvSequence kv;
  if (!cache->grow(kv, 1)) return Error("no page for one position");
  backend.nodes.clear();
  const std::int32_t token = 0;
  Forward forward(backend, *weights, 1);
  forward.run(std::array{StepSequence{{&token, 1}, 0, &kv, 1}}, *cache);
  cache->release(kv);
  head_dim = backend.head_dim;
  return std::move(backend.nodes);
}

/// What the graph is read from: nodes, who reads each of them, how often each tensor is used.
struct Trace {
  std::vector<Node> nodes;
  std::vector<std::vector<std::size_t>> readers;  // of each value
  std::map<std::string, int, std::less<>> n_uses;
  std::int64_t head_dim = 0;

  explicit Trace(std::vector<Node> list, std::int64_t dim)
      : nodes(std::move(list)), readers(nodes.size()), head_dim(dim) {
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      for (const std::size_t input : nodes[i].inputs) readers[input].push_back(i);
      if (!nodes[i].weight.empty()) ++n_uses[nodes[i].weight];
      if (!nodes[i].bias.empty()) ++n_uses[nodes[i].bias];
    }
  }
  bool is_single(const std::string& tensor) const {
    return tensor.empty() || n_uses.at(tensor) == 1;
  }
};

/// Adds the matrices that multiply the value; false where something else reads it too.
bool add_consumers(const Trace& trace, std::size_t value, Fold& fold, bool may_be_shared) {
  for (const std::size_t reader : trace.readers[value]) {
    const Node& node = trace.nodes[reader];
    if (node.op != Op::product) return false;
    if (!may_be_shared && !trace.is_single(node.weight)) return false;
    fold.consumers.push_back(node.weight);
  }
  return !fold.consumers.empty();
}

std::optional<Fold> norm_fold(const Trace& trace, std::size_t i, bool may_be_shared) {
  const Node& node = trace.nodes[i];
  Fold fold{.path = Fold::Path::norm, .producer = node.weight, .bias = {}, .consumers = {}};
  fold.n_channels = node.width;
  if (!trace.is_single(node.weight) || !add_consumers(trace, i, fold, may_be_shared)) {
    return std::nullopt;
  }
  return fold;
}

/// The product of a matrix that is the linear side of one gate, or the values of one attention.
std::optional<Fold> product_fold(const Trace& trace, std::size_t i) {
  const Node& node = trace.nodes[i];
  if (!trace.is_single(node.weight) || !trace.is_single(node.bias)) return std::nullopt;
  if (trace.readers[i].size() != 1) return std::nullopt;
  const std::size_t next = trace.readers[i].front();
  const Node& reader = trace.nodes[next];
  Fold fold{.producer = node.weight, .bias = node.bias, .consumers = {}};
  fold.n_channels = node.width;
  if (reader.op == Op::gate && reader.inputs[1] == i && reader.inputs[0] != i) {
    fold.path = Fold::Path::gate;
  } else if (reader.op == Op::attention && reader.inputs[2] == i && reader.inputs[0] != i &&
             reader.inputs[1] != i) {
    fold.path = Fold::Path::attention;
    fold.head_dim = trace.head_dim;
    fold.n_repeats = reader.width / node.width;
  } else {
    return std::nullopt;
  }
  if (!add_consumers(trace, next, fold, /*may_be_shared=*/false)) return std::nullopt;
  return fold;
}

/// Sets of values that are added to each other; an addition belongs to the set of its inputs.
class Sets {
 public:
  explicit Sets(const Trace& trace) : parent_(trace.nodes.size()) {
    std::iota(parent_.begin(), parent_.end(), std::size_t{0});
    for (std::size_t i = 0; i < trace.nodes.size(); ++i) {
      if (trace.nodes[i].op != Op::add) continue;
      for (const std::size_t input : trace.nodes[i].inputs) parent_[root(input)] = root(i);
    }
  }
  std::size_t root(std::size_t i) const {
    while (parent_[i] != i) i = parent_[i];
    return i;
  }

 private:
  std::vector<std::size_t> parent_;
};

/// Adds a value of the stream and what reads it; false where that cannot be turned.
bool add_member(const Trace& trace, std::size_t i, Stream& stream) {
  const Node& node = trace.nodes[i];
  stream.width = node.width;
  if (node.op == Op::embed) {
    if (std::ranges::count(stream.tables, node.weight) == 0) stream.tables.push_back(node.weight);
  } else if (node.op == Op::product) {
    if (!trace.is_single(node.weight) || !trace.is_single(node.bias)) return false;
    stream.writers.push_back(node.weight);
    if (!node.bias.empty()) stream.biases.push_back(node.bias);
  } else if (node.op != Op::add) {
    return false;
  }
  for (const std::size_t reader : trace.readers[i]) {
    if (trace.nodes[reader].op == Op::add) continue;
    if (trace.nodes[reader].op != Op::norm) return false;
    auto fold = norm_fold(trace, reader, /*may_be_shared=*/true);
    if (!fold) return false;
    stream.norms.push_back(*std::move(fold));
  }
  return true;
}

std::vector<Stream> streams_of(const Trace& trace) {
  const Sets sets(trace);
  std::vector<Stream> streams;
  for (std::size_t root = 0; root < trace.nodes.size(); ++root) {
    if (sets.root(root) != root || trace.nodes[root].op != Op::add) continue;
    Stream stream;
    bool can_turn = true;
    for (std::size_t i = 0; i < trace.nodes.size() && can_turn; ++i) {
      if (sets.root(i) == root) can_turn = add_member(trace, i, stream);
    }
    if (can_turn) streams.push_back(std::move(stream));
  }
  return streams;
}

}  // namespace

std::int64_t Fold::channel_of(std::int64_t column) const {
  if (path != Path::attention) return column;
  return column / (head_dim * n_repeats) * head_dim + column % head_dim;
}

Result<ModelGraph> trace_model(const TensorSource& source) {
  std::int64_t head_dim = 0;
  auto nodes = trace(source, head_dim);
  if (!nodes) return std::move(nodes).error();
  const Trace trace(*std::move(nodes), head_dim);
  ModelGraph graph;
  for (std::size_t i = 0; i < trace.nodes.size(); ++i) {
    const Op op = trace.nodes[i].op;
    std::optional<Fold> fold;
    if (op == Op::norm) fold = norm_fold(trace, i, /*may_be_shared=*/false);
    if (op == Op::product) fold = product_fold(trace, i);
    if (fold) graph.folds.push_back(*std::move(fold));
  }
  graph.streams = streams_of(trace);
  for (const auto& [tensor, n_uses] : trace.n_uses) {
    if (n_uses > 1) graph.shared.push_back(tensor);
  }
  return graph;
}

}  // namespace lowbit

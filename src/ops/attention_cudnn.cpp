// Attention through cuDNN's graph API: a graph per shape, built once. Tokens lie as (T, heads, D), which strides express: no transposes.
#include "ops/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <bit>
#include <map>
#include <memory>

#include "device/cuda.cuh"

namespace thimble::ops {
namespace {

namespace fe = cudnn_frontend;
using fe::PointwiseMode_t;
using fe::graph::Graph;
using fe::graph::Pointwise_attributes;
using fe::graph::Tensor_attributes;
using Node = std::shared_ptr<Tensor_attributes>;

// The graph numbers its own scalars from 0; ours begin where it never gets to.
enum Uid : int64_t { uid_q = 1001, uid_k, uid_v, uid_y, uid_lse, uid_dy, uid_dq, uid_dk, uid_dv };

enum Kind : int64_t { forward, forward_with_lse, backward };

// What a graph is built for.
struct Call {
  DType type;
  int64_t documents, length, heads, groups, dim;
  int64_t all_heads = heads, all_groups = groups;  // in memory: a piece may be some of them
  int64_t window;                                  // 0: every token sees all of its document before it
  float scale, cap;
  Call(const Tensor& q, const Tensor& k, const AttentionShape& a)
      : type(q.dtype), documents(q.shape[0] / a.document), length(a.document), heads(q.shape[1]), groups(k.shape[1]), dim(q.shape[2]),
        window(a.window < a.document ? a.window : 0), scale(a.scale), cap(a.cap) {}
  std::vector<int64_t> key(Kind kind) const {
    return {kind, int64_t(type), documents, length, heads, groups, dim, all_heads, window, std::bit_cast<int32_t>(scale), std::bit_cast<int32_t>(cap)};
  }
};

Tensor from(const Tensor& t, int64_t element) { return {static_cast<std::byte*>(t.data) + element * size_of(t.dtype), t.dtype, t.shape}; }

void check_cudnn(const fe::error_t& status, const char* call) {
  if (status.is_bad()) throw Error(Fault::internal, {.what = std::string("a cuDNN call failed: ") + call, .found = status.err_msg});
}

// What a context keeps of cuDNN: its handle and the graphs asked for so far, null where it has none.
struct Cudnn {
  cudnnHandle_t handle = nullptr;
  std::map<std::vector<int64_t>, std::unique_ptr<Graph>> graphs;
  explicit Cudnn(cudaStream_t stream) {
    if (cudnnCreate(&handle) != CUDNN_STATUS_SUCCESS || cudnnSetStream(handle, stream) != CUDNN_STATUS_SUCCESS)
      throw Error(Fault::internal, {.what = "cuDNN does not start", .fix = "install cuDNN 9, or run with deterministic: true, which does without it"});
  }
  ~Cudnn() { cudnnDestroy(handle); }
  Cudnn(const Cudnn&) = delete;
  Cudnn& operator=(const Cudnn&) = delete;
};

Cudnn& cudnn_of(CudaContext& cuda) {
  if (!cuda.cudnn) cuda.cudnn = std::make_shared<Cudnn>(cuda.stream);
  return *std::static_pointer_cast<Cudnn>(cuda.cudnn);
}

fe::DataType_t type_of(DType t) { return t == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF; }

Node describe(Graph& graph, Uid uid, const Call& c, int64_t heads, int64_t all) {
  return graph.tensor(Tensor_attributes().set_uid(uid).set_dim({c.documents, heads, c.length, c.dim}).set_stride({c.length * all * c.dim, c.dim, all * c.dim, 1}));
}
void describe_output(Tensor_attributes& t, Uid uid, const Call& c, int64_t heads, int64_t all) {
  t.set_output(true).set_uid(uid).set_dim({c.documents, heads, c.length, c.dim}).set_stride({c.length * all * c.dim, c.dim, all * c.dim, 1});
}
// As queries, or as keys and values.
Node of_queries(Graph& graph, Uid uid, const Call& c) { return describe(graph, uid, c, c.heads, c.all_heads); }
Node of_keys(Graph& graph, Uid uid, const Call& c) { return describe(graph, uid, c, c.groups, c.all_groups); }

std::unique_ptr<Graph> new_graph(DType type) {
  auto graph = std::make_unique<Graph>();
  graph->set_io_data_type(type_of(type)).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

// Scores that come divided by the cap become cap tanh(score), then masked, since cuDNN takes no mask of its own beside what modifies scores.
struct Cap {
  Call call;
  Node divided;

  static Node pointwise(Graph& graph, PointwiseMode_t mode, Node x) { return graph.pointwise(x, Pointwise_attributes().set_mode(mode)); }
  static Node pointwise(Graph& graph, PointwiseMode_t mode, Node x, Node by) { return graph.pointwise(x, by, Pointwise_attributes().set_mode(mode)); }
  Node times_cap(Graph& graph, Node x) const { return pointwise(graph, PointwiseMode_t::MUL, x, std::make_shared<Tensor_attributes>(call.cap)); }

  Node scores(std::shared_ptr<Graph> graph, Node x) {
    divided = x;
    const Node capped = times_cap(*graph, pointwise(*graph, PointwiseMode_t::TANH_FWD, x));
    const std::optional<int64_t> window = call.window > 0 ? std::optional(call.window) : std::nullopt;
    return fe::graph::attn::score_modifiers::sliding_window_mask(graph, capped, fe::DiagonalAlignment_t::TOP_LEFT, window, 0, call.length, call.length, nullptr, nullptr);
  }
  Node gradient(std::shared_ptr<Graph> graph, Node dx) const { return pointwise(*graph, PointwiseMode_t::TANH_BWD, times_cap(*graph, dx), divided); }
};

// Scale, cap and mask. Null where nothing is capped.
template <class Options>
std::shared_ptr<Cap> set_scores(Options& options, const Call& c) {
  if (c.cap == 0) {
    options.set_attn_scale(c.scale).set_causal_mask(true);
    if (c.window > 0) options.set_diagonal_band_left_bound(int(c.window));
    return nullptr;
  }
  const auto cap = std::make_shared<Cap>(Cap{c});
  options.set_attn_scale(c.scale / c.cap).set_score_mod([cap](auto graph, Node x) { return cap->scores(graph, x); });
  return cap;
}

std::unique_ptr<Graph> forward_graph(const Call& c, bool with_lse) {
  auto graph = new_graph(c.type);
  const Node q = of_queries(*graph, uid_q, c), k = of_keys(*graph, uid_k, c), v = of_keys(*graph, uid_v, c);
  auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(with_lse);
  set_scores(options, c);
  auto [y, lse] = graph->sdpa(q, k, v, options);
  describe_output(*y, uid_y, c, c.heads, c.all_heads);
  if (with_lse)
    lse->set_output(true).set_uid(uid_lse).set_data_type(fe::DataType_t::FLOAT).set_dim({c.documents, c.heads, c.length, 1}).set_stride({c.heads * c.length, c.length, 1, 1});
  return graph;
}

std::unique_ptr<Graph> backward_graph(const Call& c) {
  auto graph = new_graph(c.type);
  const Node q = of_queries(*graph, uid_q, c), k = of_keys(*graph, uid_k, c), v = of_keys(*graph, uid_v, c);
  const Node y = of_queries(*graph, uid_y, c), dy = of_queries(*graph, uid_dy, c);
  const Node lse = graph->tensor(Tensor_attributes().set_uid(uid_lse).set_data_type(fe::DataType_t::FLOAT).set_dim({c.documents, c.heads, c.length, 1})
                                     .set_stride({c.heads * c.length, c.length, 1, 1}));
  auto options = fe::graph::SDPA_backward_attributes().set_name("attention_backward");
  if (const auto cap = set_scores(options, c)) options.set_score_mod_bprop([cap](auto graph, Node dx) { return cap->gradient(graph, dx); });
  auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, y, dy, lse, options);
  describe_output(*dq, uid_dq, c, c.heads, c.all_heads);
  describe_output(*dk, uid_dk, c, c.groups, c.all_groups);
  describe_output(*dv, uid_dv, c, c.groups, c.all_groups);
  return graph;
}

// Null where this cuDNN has none, or none that the workspace is enough for.
Graph* graph_of(Cudnn& cudnn, Kind kind, const Call& c, int64_t workspace) {
  const auto [at, is_new] = cudnn.graphs.try_emplace(c.key(kind));
  if (is_new) {
    auto graph = kind == backward ? backward_graph(c) : forward_graph(c, kind == forward_with_lse);
    if (graph->build(cudnn.handle, {fe::HeurMode_t::A}).is_good() && graph->get_workspace_size() <= workspace) at->second = std::move(graph);
  }
  return at->second.get();
}

// Backward's pieces, of at most what the workspace holds: f(piece, its first document, its first key/value head).
template <class F>
void each_piece(const Call& all, int64_t workspace, F&& f) {
  const int64_t per_group = all.heads / all.groups, elements = (workspace - attention_cudnn_fixed_workspace) / 8;
  const int64_t documents = std::max<int64_t>(1, elements / (all.length * all.heads * all.dim));
  const int64_t groups = std::min(all.groups, std::max<int64_t>(1, elements / (all.length * per_group * all.dim)));
  for (int64_t document = 0; document < all.documents; document += documents)
    for (int64_t group = 0; group < all.groups; group += groups) {
      Call piece = all;
      piece.documents = std::min(documents, all.documents - document);
      piece.groups = std::min(groups, all.groups - group);
      piece.heads = piece.groups * per_group;
      f(piece, document, group);
    }
}

// Whether a forward with lse and the backward of it are both there.
bool has_both(Cudnn& cudnn, const Call& all, int64_t workspace) {
  bool both = graph_of(cudnn, forward_with_lse, all, attention_cudnn_forward_workspace);
  each_piece(all, workspace, [&](const Call& piece, int64_t, int64_t) { both = both && graph_of(cudnn, backward, piece, workspace); });
  return both;
}

}  // namespace

bool attention_cudnn(CudaContext& cuda, Tensor workspace, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  Cudnn& cudnn = cudnn_of(cuda);
  const Call call(q, k, a);
  if (lse && !has_both(cudnn, call, attention_cudnn_workspace(q, k, a))) return false;
  Graph* const graph = graph_of(cudnn, lse ? forward_with_lse : forward, call, workspace.bytes());
  if (!graph) return false;
  std::unordered_map<int64_t, void*> pack{{uid_q, q.data}, {uid_k, k.data}, {uid_v, v.data}, {uid_y, y.data}};
  if (lse) pack[uid_lse] = lse.data;
  check_cudnn(graph->execute(cudnn.handle, pack, workspace.data), "attention");
  return true;
}

bool attention_backward_cudnn(CudaContext& cuda, const AttentionGrad& g, Tensor workspace, Tensor dy, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v,
                              const AttentionShape& a) {
  Cudnn& cudnn = cudnn_of(cuda);
  const Call all(q, k, a);
  if (!has_both(cudnn, all, workspace.bytes())) return false;
  each_piece(all, workspace.bytes(), [&](const Call& piece, int64_t document, int64_t group) {
    const int64_t head = group * (all.heads / all.groups);
    const int64_t of_q = (document * all.length * all.heads + head) * all.dim, of_k = (document * all.length * all.groups + group) * all.dim;
    const int64_t of_lse = (document * all.heads + head) * all.length;  // packed: several documents come with all their heads
    std::unordered_map<int64_t, void*> pack{{uid_q, from(q, of_q).data},      {uid_k, from(k, of_k).data},       {uid_v, from(v, of_k).data},
                                            {uid_y, from(y, of_q).data},      {uid_dy, from(dy, of_q).data},     {uid_lse, from(lse, of_lse).data},
                                            {uid_dq, from(g.dq, of_q).data}, {uid_dk, from(g.dk, of_k).data}, {uid_dv, from(g.dv, of_k).data}};
    check_cudnn(graph_of(cudnn, backward, piece, workspace.bytes())->execute(cudnn.handle, pack, workspace.data), "attention_backward");
  });
  return true;
}

}  // namespace thimble::ops

// Attention through cuDNN's graph API: a graph per shape, built once. Tokens lie as (T, heads, D), which strides express: no transposes.
#include "ops/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <map>
#include <memory>

#include "device/cuda.cuh"

namespace thimble::ops {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;

// The graph numbers its own scalars from 0; ours begin where it never gets to.
enum Uid : int64_t { uid_q = 1001, uid_k, uid_v, uid_y, uid_lse, uid_dy, uid_dq, uid_dk, uid_dv };

struct Sizes {
  int64_t documents, length, heads, groups, dim;
  int64_t all_heads = heads, all_groups = groups;  // in memory: a piece may be some of them
  Sizes(const Tensor& q, const Tensor& k, const AttentionShape& a)
      : documents(q.shape[0] / a.document), length(a.document), heads(q.shape[1]), groups(k.shape[1]), dim(q.shape[2]) {}
};

Tensor from(const Tensor& t, int64_t element) { return {static_cast<std::byte*>(t.data) + element * size_of(t.dtype), t.dtype, t.shape}; }

void check_cudnn(const fe::error_t& status, const char* call) {
  if (status.is_bad()) throw Error(Fault::internal, {.what = std::string("a cuDNN call failed: ") + call, .found = status.err_msg});
}

// What a context keeps of cuDNN: its handle and the graphs built so far.
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

std::shared_ptr<Tensor_attributes> describe(Graph& graph, Uid uid, const Sizes& s, int64_t heads, int64_t all) {
  return graph.tensor(Tensor_attributes().set_uid(uid).set_dim({s.documents, heads, s.length, s.dim}).set_stride({s.length * all * s.dim, s.dim, all * s.dim, 1}));
}
void describe_output(Tensor_attributes& t, Uid uid, const Sizes& s, int64_t heads, int64_t all) {
  t.set_output(true).set_uid(uid).set_dim({s.documents, heads, s.length, s.dim}).set_stride({s.length * all * s.dim, s.dim, all * s.dim, 1});
}
// As queries, or as keys and values.
std::shared_ptr<Tensor_attributes> of_queries(Graph& graph, Uid uid, const Sizes& s) { return describe(graph, uid, s, s.heads, s.all_heads); }
std::shared_ptr<Tensor_attributes> of_keys(Graph& graph, Uid uid, const Sizes& s) { return describe(graph, uid, s, s.groups, s.all_groups); }

std::unique_ptr<Graph> new_graph(DType type) {
  auto graph = std::make_unique<Graph>();
  graph->set_io_data_type(type_of(type)).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

std::unique_ptr<Graph> build_forward(Cudnn& cudnn, DType type, const Sizes& s, float scale, bool with_lse) {
  auto graph = new_graph(type);
  const auto q = of_queries(*graph, uid_q, s), k = of_keys(*graph, uid_k, s), v = of_keys(*graph, uid_v, s);
  const auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(with_lse).set_causal_mask(true).set_attn_scale(scale);
  auto [y, lse] = graph->sdpa(q, k, v, options);
  describe_output(*y, uid_y, s, s.heads, s.all_heads);
  if (with_lse)
    lse->set_output(true).set_uid(uid_lse).set_data_type(fe::DataType_t::FLOAT).set_dim({s.documents, s.heads, s.length, 1}).set_stride({s.heads * s.length, s.length, 1, 1});
  check_cudnn(graph->build(cudnn.handle, {fe::HeurMode_t::A}), "build attention");
  return graph;
}

std::unique_ptr<Graph> build_backward(Cudnn& cudnn, DType type, const Sizes& s, float scale) {
  auto graph = new_graph(type);
  const auto q = of_queries(*graph, uid_q, s), k = of_keys(*graph, uid_k, s), v = of_keys(*graph, uid_v, s);
  const auto y = of_queries(*graph, uid_y, s), dy = of_queries(*graph, uid_dy, s);
  const auto lse = graph->tensor(Tensor_attributes().set_uid(uid_lse).set_data_type(fe::DataType_t::FLOAT).set_dim({s.documents, s.heads, s.length, 1})
                                     .set_stride({s.heads * s.length, s.length, 1, 1}));
  const auto options = fe::graph::SDPA_backward_attributes().set_name("attention_backward").set_causal_mask(true).set_attn_scale(scale);
  auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, y, dy, lse, options);
  describe_output(*dq, uid_dq, s, s.heads, s.all_heads);
  describe_output(*dk, uid_dk, s, s.groups, s.all_groups);
  describe_output(*dv, uid_dv, s, s.groups, s.all_groups);
  check_cudnn(graph->build(cudnn.handle, {fe::HeurMode_t::A}), "build attention_backward");
  return graph;
}

void check_workspace(Graph& graph, const Tensor& workspace) {
  const int64_t wanted = graph.get_workspace_size();
  if (wanted > workspace.bytes())
    throw Error(Fault::internal, {.what = "cuDNN wants more workspace than its cap", .expected = std::to_string(workspace.bytes()), .found = std::to_string(wanted)});
}

enum Kind : int64_t { forward, forward_with_lse, backward };

template <class Build>
Graph& graph_of(Cudnn& cudnn, Kind kind, DType type, const Sizes& s, const Build& build) {
  auto& graph = cudnn.graphs[{kind, int64_t(type), s.documents, s.length, s.heads, s.groups, s.dim, s.all_heads}];
  if (!graph) graph = build();
  return *graph;
}

}  // namespace

void attention_cudnn(CudaContext& cuda, Tensor workspace, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  Cudnn& cudnn = cudnn_of(cuda);
  const Sizes s(q, k, a);
  Graph& graph = graph_of(cudnn, lse ? forward_with_lse : forward, q.dtype, s, [&] { return build_forward(cudnn, q.dtype, s, a.scale, bool(lse)); });
  check_workspace(graph, workspace);
  std::unordered_map<int64_t, void*> pack{{uid_q, q.data}, {uid_k, k.data}, {uid_v, v.data}, {uid_y, y.data}};
  if (lse) pack[uid_lse] = lse.data;
  check_cudnn(graph.execute(cudnn.handle, pack, workspace.data), "attention");
}

void attention_backward_cudnn(CudaContext& cuda, const AttentionGrad& g, Tensor workspace, Tensor dy, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v,
                              const AttentionShape& a) {
  Cudnn& cudnn = cudnn_of(cuda);
  const Sizes all(q, k, a);
  const int64_t per_group = all.heads / all.groups, elements = (workspace.bytes() - attention_cudnn_fixed_workspace) / 8;
  const int64_t documents = std::max<int64_t>(1, elements / (all.length * all.heads * all.dim));
  const int64_t groups = std::min(all.groups, std::max<int64_t>(1, elements / (all.length * per_group * all.dim)));
  for (int64_t document = 0; document < all.documents; document += documents)
    for (int64_t group = 0; group < all.groups; group += groups) {
      Sizes s = all;
      s.documents = std::min(documents, all.documents - document);
      s.groups = std::min(groups, all.groups - group);
      s.heads = s.groups * per_group;
      Graph& graph = graph_of(cudnn, backward, q.dtype, s, [&] { return build_backward(cudnn, q.dtype, s, a.scale); });
      check_workspace(graph, workspace);
      const int64_t head = group * per_group, of_q = (document * all.length * all.heads + head) * all.dim, of_k = (document * all.length * all.groups + group) * all.dim;
      const int64_t of_lse = (document * all.heads + head) * all.length;  // packed: several documents come with all their heads
      std::unordered_map<int64_t, void*> pack{{uid_q, from(q, of_q).data},      {uid_k, from(k, of_k).data},       {uid_v, from(v, of_k).data},
                                              {uid_y, from(y, of_q).data},      {uid_dy, from(dy, of_q).data},     {uid_lse, from(lse, of_lse).data},
                                              {uid_dq, from(g.dq, of_q).data}, {uid_dk, from(g.dk, of_k).data}, {uid_dv, from(g.dv, of_k).data}};
      check_cudnn(graph.execute(cudnn.handle, pack, workspace.data), "attention_backward");
    }
}

}  // namespace thimble::ops

// Slabs are laid out by one function, used for homes, ring slots and views alike, so a copy of a slab is the layer.
#include "store/weight_store.h"

#include <algorithm>

#include "device/disk.h"

namespace thimble::store {
namespace {

constexpr int64_t strip_bytes = int64_t{16} << 20;   // on the device, of a matrix that is packed: what is brought at once of its numbers
constexpr int64_t staging_bytes = int64_t{4} << 20;  // pinned, while loading: large enough for full link speed, small beside any plan

// A weight that begins at `base`, which is moved behind it.
quant::Weight place(quant::FormatId format, const Shape& shape, DType dtype, std::byte*& base) {
  quant::Weight w{.format = format, .shape = shape};
  int count = 0;
  const auto parts = quant::parts_of(format, shape, dtype, count);
  for (int i = 0; i < count; ++i) {
    w.parts[size_t(i)] = Tensor{base, parts[size_t(i)].dtype, parts[size_t(i)].shape};
    base += aligned(w.parts[size_t(i)].bytes());
  }
  return w;
}
quant::Weight place(const ParamSpec& p, Tensor bytes) {
  auto* base = static_cast<std::byte*>(bytes.data);
  return place(p.format, p.shape, p.dtype, base);
}

// The same weights, beginning at `base`.
void move_to(std::byte* base, std::vector<quant::Weight>& weights) {
  const auto distance = base - static_cast<std::byte*>(weights.front().parts.front().data);
  for (quant::Weight& w : weights)
    for (Tensor& part : w.parts)
      if (part) part.data = static_cast<std::byte*>(part.data) + distance;
}

// Whether the i-th of `all` is one of `some`, spread evenly over them.
bool is_one_of(int64_t i, int64_t some, int64_t all) { return (i + 1) * some / all != i * some / all; }

std::vector<Tier> homes_of(const ParamTable& table, const Residency& r) {
  std::vector<bool> resident;
  for (const auto& layer : table.layers) resident.push_back(std::any_of(layer.begin(), layer.end(), [](const ParamSpec& p) { return p.trained; }));
  const bool all_trained = std::find(resident.begin(), resident.end(), false) == resident.end();
  if (all_trained) resident.assign(resident.size(), false);
  const int64_t movable = std::count(resident.begin(), resident.end(), false), streamed = r.layers - r.resident;
  check(streamed >= 0 && streamed <= movable, "layers that are trained beside frozen ones are resident");
  check(r.on_disk >= 0 && r.on_disk <= (all_trained ? 0 : streamed), "layers on disk are streamed, and not trained");
  std::vector<Tier> tiers(resident.size(), Tier::device);
  int64_t i = 0, s = 0;  // of those that may move, of those that do
  for (size_t l = 0; l < resident.size(); ++l)
    if (!resident[l] && is_one_of(i++, streamed, movable)) tiers[l] = is_one_of(s++, r.on_disk, streamed) ? Tier::disk : Tier::pinned;
  return tiers;
}

}  // namespace

int64_t slab_bytes(const std::vector<ParamSpec>& specs) {
  int64_t sum = 0;
  for (const auto& p : specs) sum += quant::bytes_of(p.format, p.shape, p.dtype);
  return sum;
}

WeightStore::WeightStore(comm::Rank& rank, std::shared_ptr<const ParamTable> shared_table, const Residency& residency)
    : rank_(rank), table_(std::move(shared_table)), residency_(residency), tiers_(homes_of(*table_, residency)) {
  const ParamTable& table = *table_;
  check(residency.layers == int(table.layers.size()) && residency.resident >= 0, "a residency speaks of the table's layers");
  check(residency.unpacked == 0 || residency.resident == residency.layers, "layers lie unpacked where all are resident");
  if ((residency.embedding_on_host || residency.on_processor > 0) && !rank.device.spec().reads_pinned)
    throw Error(Fault::usage, {.what = "this device does not read pinned memory, where the embedding or a layer's norms are to lie", .where = rank.device.spec().name,
                               .fix = "run `thimble plan` on this machine: it plans without"});
  for (const ParamSpec& p : table.outside) {
    Arena& arena = on_host(p) ? rank.pinned : rank.memory;
    outside_.push_back(place(p, arena.take(Use::weights, name_of(p.role), DType::u8, {quant::bytes_of(p.format, p.shape, p.dtype)})));
  }
  views_.resize(table.layers.size());
  at_processor_.resize(table.layers.size());
  int64_t largest_streamed = 0, largest_on_disk = 0, pinned = 0;
  const auto all_pinned = std::count(tiers_.begin(), tiers_.end(), Tier::pinned);
  check(residency.on_processor >= 0 && residency.on_processor <= all_pinned, "layers that the processor multiplies lie in pinned memory");
  for (int l = 0; l < residency.layers; ++l) {
    const int64_t bytes = slab(l);
    rank.ledger.at_layer(l);
    if (is_resident(l)) {
      homes_.push_back(rank.memory.take(Use::weights, "resident layer", DType::u8, {bytes}));
      views_[size_t(l)] = lay_out(l, static_cast<std::byte*>(homes_.back().data));
      continue;
    }
    largest_streamed = std::max(largest_streamed, bytes);
    if (!on_disk(l)) {
      homes_.push_back(rank.pinned.take(Use::weights, "streamed layer", DType::u8, {bytes}));
      if (!is_one_of(pinned++, residency.on_processor, all_pinned)) continue;
      at_processor_[size_t(l)] = at_home(l);
      for (quant::Weight& w : at_processor_[size_t(l)]) w.on_processor = true;
      check(std::ranges::none_of(table.layers[size_t(l)], &ParamSpec::trained), "layers that the processor multiplies are not trained");
      continue;
    }
    largest_on_disk = std::max(largest_on_disk, bytes);
    const Tensor pages = rank.disk.take(Use::weights, "layer on disk", DType::u8, {(bytes + disk_page - 1) / disk_page * disk_page});
    homes_.push_back({pages.data, DType::u8, {bytes}});
  }
  rank.ledger.at_layer(-1);
  if (largest_on_disk > 0) disk_ring_ = std::make_unique<Ring>(rank.stream, rank.pinned, "streamed weights", residency.slots, largest_on_disk);
  if (largest_streamed > 0) ring_ = std::make_unique<Ring>(rank.stream, rank.memory, "streamed weights", residency.slots, largest_streamed);
}

WeightStore::Held WeightStore::held(int layer, const ParamSpec& p) const {
  const bool unpacked = layer < residency_.unpacked && p.format != quant::FormatId::dense && quant::format(p.format).same_unpacked;
  return unpacked ? Held{quant::FormatId::dense, rank_.compute()} : Held{p.format, p.dtype};
}

int64_t WeightStore::slab(int layer) const {
  int64_t bytes = 0;
  for (const auto& p : table_->layers[size_t(layer)]) {
    const Held as = held(layer, p);
    bytes += quant::bytes_of(as.format, p.shape, as.dtype);
  }
  return bytes;
}

std::vector<quant::Weight> WeightStore::lay_out(int layer, std::byte* base) const {
  std::vector<quant::Weight> weights;
  weights.reserve(table_->layers[size_t(layer)].size());
  for (const auto& p : table_->layers[size_t(layer)]) {
    const Held as = held(layer, p);
    weights.push_back(place(as.format, p.shape, as.dtype, base));
  }
  return weights;
}

void WeightStore::load(const WeightSource* source) {
  const Scope scope(rank_.pinned);
  int64_t largest = 0;
  table_->for_each([&](const ParamSpec& p) { largest = std::max(largest, p.shape.count() * size_of(p.dtype)); });
  const Tensor staging = rank_.pinned.take(Use::scratch, "loading", DType::u8, {std::min(largest, staging_bytes)});
  for (size_t i = 0; i < outside_.size(); ++i) load_one(source, table_->outside[i], outside_[i], staging);
  for (int l = 0; l < residency_.layers; ++l) {
    rank_.ledger.at_layer(l);
    const auto& specs = table_->layers[size_t(l)];
    if (!is_resident(l)) put(l, ring_->acquire_to_fill(l, home_of(l).bytes()));
    for (size_t i = 0; i < specs.size(); ++i) load_one(source, specs[i], views_[size_t(l)][i], staging);
    if (on_disk(l)) {
      const Tensor staged = disk_ring_->acquire_to_fill(l, home_of(l).bytes());
      disk_ring_->release(l, home_of(l), ring_->release(l, staged));
    } else if (!is_resident(l)) {
      ring_->release(l, home_of(l));
    }
  }
  if (ring_) ring_->drain();
  if (disk_ring_) disk_ring_->drain();
  rank_.ledger.at_layer(-1);
}

void WeightStore::load_one(const WeightSource* source, const ParamSpec& p, const quant::Weight& to, Tensor staging) {
  const comm::Kind kind{"load", {int64_t(p.format), int64_t(to.format), int64_t(p.dtype), p.shape.rows(), p.shape.row(), on_host(p) + 2 * p.comes_packed()}};
  rank_.once_a_kind(kind, [&] {
    read_and_pack(source, p, to, staging);
    return 0;
  });
}

void WeightStore::read_and_pack(const WeightSource* source, const ParamSpec& p, const quant::Weight& to, Tensor staging) {
  if (on_host(p)) {  // it stays where it is read to
    if (!rank_.is_phantom()) source->read(p.name, 0, to.dense());
    return;
  }
  const Scope scope(rank_.memory);
  const auto pack_into = [&](const quant::Weight& codes) {
    if (p.comes_packed()) return load_packed(source, p, codes, staging);
    const int64_t row_bytes = std::max<int64_t>(1, p.shape.row() * size_of(p.dtype)), at_once = std::max<int64_t>(1, strip_bytes / (64 * row_bytes)) * 64;
    const Tensor strip = rank_.stream.scratch("rows being packed", p.dtype, {std::min(at_once, p.shape.rows()), p.shape.row()});
    quant::format(p.format).pack(rank_.stream, codes, {at_once, [&](int64_t first, int64_t n) {
      const Tensor some = strip.rows(0, n);
      load_numbers(source, p, first, some, staging);
      return some;
    }});
  };
  if (p.format == quant::FormatId::dense) return load_numbers(source, p, 0, to.dense(), staging);
  if (to.format == p.format) return pack_into(to);
  const Tensor packed = rank_.stream.scratch("packed matrix", DType::u8, {quant::bytes_of(p.format, p.shape, p.dtype)});
  const quant::Weight codes = place(p, packed);
  pack_into(codes);
  quant::format(p.format).unpack(rank_.stream, to.dense(), codes);
}

void WeightStore::load_numbers(const WeightSource* source, const ParamSpec& p, int64_t first, Tensor to, Tensor staging) {
  if (rank_.device.kind() == DeviceKind::cpu) {  // host memory: read to where it stays
    if (!rank_.is_phantom()) source->read(p.file_name(), p.shared_row + first, to);
    return;
  }
  const int64_t row_bytes = p.shape.row() * size_of(p.dtype);
  const int64_t step = std::max<int64_t>(1, staging.bytes() / std::max<int64_t>(1, row_bytes));
  check(row_bytes <= staging.bytes(), "a row fits the staging buffer");
  for (int64_t row = 0; row < to.shape.rows(); row += step) {
    const Tensor rows = to.rows(row, std::min(step, to.shape.rows() - row));
    const Tensor piece{staging.data, rows.dtype, rows.shape};
    if (!rank_.is_phantom()) source->read(p.file_name(), p.shared_row + first + row, piece);
    rank_.upload("loading", rows, piece);
  }
}

// The codes as the files hold them.
void WeightStore::load_packed(const WeightSource* source, const ParamSpec& p, const quant::Weight& to, Tensor staging) {
  for (size_t i = 0; i < to.parts.size() && to.parts[i]; ++i) {
    const Tensor all = to.parts[i].view({to.parts[i].count()});
    const int64_t step = staging.bytes() / size_of(all.dtype);
    for (int64_t first = 0; first < all.count(); first += step) {
      const Tensor some = all.rows(first, std::min(step, all.count() - first)), piece{staging.data, some.dtype, some.shape};
      if (!rank_.is_phantom()) source->read_part(p.name, int(i), first, piece);
      rank_.upload("loading", some, piece);
    }
  }
}

std::span<const quant::Weight> WeightStore::acquire(int layer, int next, bool few) {
  const auto stays = [&](int l) { return is_resident(l) || (few && on_processor(l)); };
  const auto& view = few && on_processor(layer) ? at_processor_[size_t(layer)] : views_[size_t(layer)];
  if (few && on_processor(layer)) held_there_ = layer;
  if (!stays(layer)) {
    bring(layer);
    put(layer, ring_->acquire(layer, home_of(layer)));
  }
  const int direction = next > layer ? 1 : -1;
  int l = next;
  while (l >= 0 && l < residency_.layers && stays(l)) l += direction;
  if (l < 0 || l >= residency_.layers) return view;
  bring(l);  // the next one that has to come, however far: it may travel while resident layers compute
  if (disk_ring_) read_ahead(l + direction, direction);
  return view;
}

void WeightStore::put(int layer, Tensor slab) {
  auto* base = static_cast<std::byte*>(slab.data);
  auto& view = views_[size_t(layer)];
  if (view.empty()) view = lay_out(layer, base);
  else move_to(base, view);
}

void WeightStore::bring(int layer) {
  if (!on_disk(layer) || ring_->has(layer)) return ring_->prefetch(layer, home_of(layer));
  const auto [staged, ready] = disk_ring_->lend(layer, home_of(layer));
  ring_->prefetch(layer, staged, ready);
  if (ring_->has(layer)) disk_ring_->give_back(layer, ring_->arrival(layer));
}

// One slot is being read by the link, the others fill behind it.
void WeightStore::read_ahead(int layer, int direction) {
  int slots = residency_.slots - 1;
  for (int l = layer; slots > 0 && l >= 0 && l < residency_.layers; l += direction) {
    if (!on_disk(l) || ring_->has(l)) continue;
    disk_ring_->prefetch(l, home_of(l));
    --slots;
  }
}

void WeightStore::release(int layer, bool changed) {
  if (is_resident(layer)) return;
  if (held_there_ == layer) {
    held_there_ = -1;
    return;
  }
  if (changed) ring_->release(layer, home_of(layer));
  else ring_->release(layer);
}

std::vector<quant::Weight> WeightStore::at_home(int layer) const {
  return lay_out(layer, static_cast<std::byte*>(home_of(layer).data));
}

void WeightStore::settle() {
  if (!ring_) return;
  ring_->drain();
  rank_.device.synchronize();
}

void WeightStore::changed_at_home() {
  if (ring_) ring_->forget();
}

}  // namespace thimble::store

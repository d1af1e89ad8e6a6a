// The Python module: checks what comes from outside (models: model_reader.cpp) and hands it to the decoder. The GIL is
// released in every call that computes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#if defined(__linux__)
#include <malloc.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "decoder.hpp"
#include "engine/bandwidth.hpp"
#include "kernels/dispatch.hpp"
#include "model/model_reader.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace outpace {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Ids = nb::ndarray<nb::numpy, int64_t, nb::ndim<2>>;

constexpr int kMostThreads = 1024;

void check_threads(int num_threads) {
  if (num_threads < 1 || num_threads > kMostThreads)
    refuse("num_threads has to be 1 to " + std::to_string(kMostThreads) + ", not " + std::to_string(num_threads));
}

// Before room is made for what would be found.
void check_top(int k, int most, const char* what) {
  most = std::min(most, kMaxTop);
  if (k < 1 || k > most) refuse("top finds 1 to " + std::to_string(most) + " " + what + ", not " + std::to_string(k));
}

void check_call(const std::vector<int>& rows, const std::vector<int>& starts, const std::vector<int32_t>& tokens,
                const std::vector<int32_t>& parents) {
  if (rows.empty() || starts.size() != rows.size() + 1 || starts[0] != 0 || tokens.size() != parents.size() ||
      starts.back() != (int)tokens.size() || !std::is_sorted(starts.begin(), starts.end()))
    refuse("rows, starts, tokens and parents do not fit together");
}

// A matrix of the caller's, with the x [n, cols] that it is to be multiplied with.
Matrix read_matrix(const std::string& kind, int rows, int cols, const Bytes& data, const Rows& x) {
  if ((int64_t)x.shape(1) != cols || x.shape(0) > kMostSize) refuse("x has to be [tokens, cols]");
  const Matrix w = packed_matrix(kind, rows, cols, data.data());
  if (data.size() != w.tile_bytes * w.tiles || (uintptr_t)data.data() % 64)
    refuse("the packed matrix has a wrong size or alignment");
  return w;
}

template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> matrix(size_t rows, size_t cols) {
  T* data = new T[rows * cols];
  return {data, {rows, cols}, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); })};
}

// What was found, as an array of these rows.
Floats array(std::vector<float>&& values, size_t cols) {
  auto* held = new std::vector<float>(std::move(values));
  return {held->data(), {held->size() / cols, cols}, nb::capsule(held, [](void* p) noexcept {
            delete static_cast<std::vector<float>*>(p);
          })};
}

// (first node, number of nodes, position of the first, temperature, top_k, top_p, min_p, seed)
using RowSampling = std::tuple<int, int, int64_t, double, int, double, double, uint64_t>;
template <class T>
using Row = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// (ids, added, repeated, penalty, allowed)
using FlatEdit = std::tuple<Row<int32_t>, Row<float>, Row<int32_t>, float, std::optional<Row<uint8_t>>>;

// The decoder, held by one thread without the GIL.
struct Held {
  Decoder& decoder;
  nb::gil_scoped_release release{};  // before the lock is waited for, until it is given back
  std::lock_guard<ForkLock> guard{decoder.lock};
  Decoder* operator->() const { return &decoder; }
};

// What Python holds: a decoder and the buffer that its weights lie in.
class PyDecoder {
 public:
  PyDecoder(const nb::dict& config, const nb::dict& tensors, Bytes buffer, int num_threads, bool half_cache,
            int64_t cache_positions, const PyDecoder* beside)
      : buffer_(std::move(buffer)) {
    check_threads(num_threads);
    if ((uintptr_t)buffer_.data() % 64) refuse("the packed weights have to begin at a multiple of 64 bytes");
    if (cache_positions < 16 || cache_positions > INT32_MAX)
      refuse("the cache has to hold 16 to " + std::to_string(INT32_MAX) + " positions");
    auto crew = beside ? beside->decoder_->crew : std::make_shared<Crew>(num_threads);
    decoder_ =
        std::make_unique<Decoder>(read_model(config, tensors, buffer_), std::move(crew), half_cache, cache_positions);
#ifdef __GLIBC__
    malloc_trim(0);  // what loading the tokenizer and the header has freed: some 30 MB of a small model's memory
#endif
  }

  void score(const std::vector<int>& rows, const std::vector<int>& starts, const std::vector<int32_t>& tokens,
             const std::vector<int32_t>& parents, const std::vector<int>& taps, int layers,
             const std::vector<int>& skip) {
    check_call(rows, starts, tokens, parents);
    held()->score(rows, starts, tokens.data(), parents.data(), taps, layers, skip);
  }

  void score_given(const std::vector<int>& rows, const std::vector<int>& starts, const std::vector<int32_t>& parents,
                   const Rows& given, const Rows& residuals, bool whole) {
    check_call(rows, starts, std::vector<int32_t>(parents.size()), parents);
    const Config& c = decoder_->model.config;
    if (given.shape(0) != parents.size() || given.shape(1) != (size_t)c.input_width ||
        residuals.shape(0) != parents.size() || residuals.shape(1) != (size_t)c.hidden_size)
      refuse("what is given has to be [nodes, input_width], residuals [nodes, hidden_size]");
    held()->score_given(rows, starts, parents.data(), given.data(), residuals.data(), whole);
  }

  void advance(const std::vector<int>& rows, const std::vector<int>& starts, const std::vector<int32_t>& tokens,
               const std::vector<int32_t>& parents, const std::vector<int32_t>& loops,
               const std::vector<int32_t>& came) {
    check_call(rows, starts, tokens, parents);
    if (loops.size() != tokens.size() || came.size() != tokens.size())
      refuse("loops and came do not fit to the tokens");
    held()->advance(rows, starts, tokens.data(), parents.data(), loops.data(), came.data());
  }

  std::vector<std::vector<int32_t>> choose(const std::vector<RowSampling>& rows,
                                           const std::optional<std::vector<std::optional<FlatEdit>>>& edits, int top) {
    std::vector<Sampling> samplings;
    samplings.reserve(rows.size());
    std::vector<Edit> changes;
    changes.reserve(edits ? edits->size() : 0);
    std::vector<Pick> picks;
    for (size_t r = 0; r < rows.size(); r++) {
      const auto& [first, count, position, temperature, top_k, top_p, min_p, seed] = rows[r];
      if (first < 0 || first > kMaxNodes || count < 0 || count > kMaxNodes)
        refuse("no node " + std::to_string(first) + " or a wrong number of nodes behind it, accepted are 0 to " +
               std::to_string(kMaxNodes));
      if (!(temperature >= 0 && std::isfinite(temperature)) || top_k < 0 || !(top_p > 0 && top_p <= 1) ||
          !(min_p >= 0 && min_p <= 1))
        refuse("accepted are a finite temperature >= 0, top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1");
      samplings.push_back({temperature, top_k, top_p, min_p, seed});
      for (int i = 0; i < count; i++)
        picks.push_back({first + i, first, (uint64_t)position + 1, &samplings.back(), nullptr});
    }
    if (edits && edits->size() != picks.size()) refuse("edits have to be given for every node");
    for (size_t i = 0; edits && i < picks.size(); i++) {
      if (!(*edits)[i]) continue;
      const auto& [ids, added, repeated, penalty, allowed] = *(*edits)[i];
      if (ids.size() != added.size()) refuse("an edit needs as many values as tokens");
      changes.push_back({ids.data(), added.data(), (int)ids.size(), repeated.data(), (int)repeated.size(), penalty,
                         allowed ? allowed->data() : nullptr, allowed ? (int)allowed->size() : 0});
      picks[i].edit = &changes.back();
    }
    std::vector<int32_t> chosen(picks.size());
    held()->output.choose(picks, chosen.data(), top);
    std::vector<std::vector<int32_t>> out;
    auto at = chosen.begin();
    for (const auto& row : rows) {
      out.emplace_back(at, at + std::get<1>(row));
      at += std::get<1>(row);
    }
    return out;
  }

  void set_fetch(int tokens, int level, int bytes, int tiles) {
    if (tokens < 1 || level < 0 || level > 2 || bytes < 0 || bytes > (1 << 20) ||
        (tiles != 1 && tiles != 2 && tiles != 4))
      refuse("accepted are tokens from 1, levels 0, 1 and 2, 0 to 2**20 bytes ahead, and 1, 2 or 4 tiles");
    held()->products.set_fetch(tokens, {level, bytes, tiles});
  }

  void set_weights(Bytes buffer) {
    if (buffer.size() != buffer_.size() || (uintptr_t)buffer.data() % 64)
      refuse("other weights have to be a copy of the first ones, at a multiple of 64 bytes");
    held()->model.move((ptrdiff_t)((intptr_t)buffer.data() - (intptr_t)buffer_.data()));
    buffer_ = std::move(buffer);
  }

  Floats logits(const std::vector<int>& nodes) {
    const size_t vocab = decoder_->model.config.vocab_size;
    Floats out = matrix<float>(nodes.size(), vocab);
    held()->output.logits(nodes, out.data());
    return out;
  }

  std::pair<Ids, Floats> top(const std::vector<int>& nodes, int k) {
    check_top(k, decoder_->model.config.vocab_size, "tokens");
    Ids ids = matrix<int64_t>(nodes.size(), k);
    Floats values = matrix<float>(nodes.size(), k);
    held()->output.top(nodes, k, ids.data(), values.data());
    return {std::move(ids), std::move(values)};
  }

  Floats hidden(int tap) {
    std::vector<float> states = held()->output.hidden(tap);
    return array(std::move(states), decoder_->model.config.hidden_size);
  }

  void set_hidden(const std::vector<int>& nodes, const Rows& states) {
    if (states.shape(0) != nodes.size() || states.shape(1) != (size_t)decoder_->model.config.hidden_size)
      refuse("states have to be [nodes, hidden_size]");
    held()->output.set_hidden(nodes, states.data());
  }

  Floats product(const std::string& kind, int rows, int cols, const Bytes& data, const Rows& x) {
    const Matrix w = read_matrix(kind, rows, cols, data, x);
    Floats out = matrix<float>(x.shape(0), rows);
    held()->products.product(w, x.data(), (int)x.shape(0), out.data());
    return out;
  }

  std::pair<Ids, Floats> product_top(const std::string& kind, int rows, int cols, const Bytes& data, const Rows& x,
                                     int k) {
    const Matrix w = read_matrix(kind, rows, cols, data, x);
    check_top(k, rows, "rows");
    Ids ids = matrix<int64_t>(x.shape(0), k);
    Floats values = matrix<float>(x.shape(0), k);
    held()->products.top(w, x.data(), (int)x.shape(0), k, ids.data(), values.data());
    return {std::move(ids), std::move(values)};
  }

  // For one expression, whose end gives the lock back.
  Held held() { return {*decoder_}; }
  const Decoder& get() const { return *decoder_; }  // for what never changes

 private:
  Bytes buffer_;
  std::unique_ptr<Decoder> decoder_;
};

// One product outside any model, and rows of the matrix as floats: what the tests hold against numpy.
Floats multiply(const std::string& kind, int rows, int cols, const Bytes& data, const Rows& x) {
  const Matrix w = read_matrix(kind, rows, cols, data, x);
  Threads alone(1);
  Floats out = matrix<float>(x.shape(0), rows);
  const Kernels& kernels = select_kernels();  // reads the environment, which Python changes with the GIL held
  nb::gil_scoped_release release;
  Products(kernels, alone).product(w, x.data(), (int)x.shape(0), out.data());
  return out;
}

Floats unpack(const std::string& kind, int rows, int cols, Bytes data) {
  const Matrix w = packed_matrix(kind, rows, cols, data.data());
  if (data.size() != w.tile_bytes * w.tiles) refuse("the packed matrix has a wrong size");
  std::vector<float> row(padded(cols));
  Floats result = matrix<float>(rows, cols);
  for (int i = 0; i < rows; i++) {
    unpack_row(w, i, row.data());
    std::copy_n(row.data(), cols, result.data() + (size_t)i * cols);
  }
  return result;
}

}  // namespace
}  // namespace outpace

NB_MODULE(_native, m) {
  using namespace outpace;
  m.doc() = "The block engine: transformers on the CPU whose price for a block of tokens is nearly that of one.";
  m.def(
      "read_bandwidth",
      [](int num_threads, size_t num_bytes, bool huge) {
        check_threads(num_threads);
        const Kernels& kernels = select_kernels();
        nb::gil_scoped_release release;
        return read_bandwidth(kernels, num_threads, num_bytes, huge);
      },
      "num_threads"_a, "num_bytes"_a, "huge"_a = false,
      "Bytes per second of a plain read of memory; huge: in huge pages, where the system grants them.");
  m.def(
      "multiply_add_rate",
      [](int num_threads, bool quantised) {
        check_threads(num_threads);
        const Kernels& kernels = select_kernels();
        nb::gil_scoped_release release;
        return multiply_add_rate(kernels, num_threads, quantised);
      },
      "num_threads"_a, "quantised"_a, "Multiply-adds per second on registers alone, of 8 bit or of float numbers.");
  m.def("instruction_sets", &instruction_sets,
        "The instruction sets that this processor has, best first; OUTPACE_ISA forces one.");

  m.def("multiply", &multiply, "kind"_a, "rows"_a, "cols"_a, "data"_a, "x"_a,
        "x [tokens, cols] times a packed matrix: [tokens, rows].");
  m.def("unpack", &unpack, "kind"_a, "rows"_a, "cols"_a, "data"_a, "A packed matrix as floats [rows, cols].");

  nb::class_<PyDecoder>(m, "Decoder")
      .def(nb::init<const nb::dict&, const nb::dict&, Bytes, int, bool, int64_t, const PyDecoder*>(), "config"_a,
           "tensors"_a, "buffer"_a, "num_threads"_a, "half_cache"_a, "cache_positions"_a,
           "beside"_a.none() = nb::none(),
           "beside: a decoder whose threads this one uses, in turns with it; num_threads has no effect then.")
      .def("open", [](PyDecoder& d) { return d.held()->cache.open(); })
      .def("fork", [](PyDecoder& d, int row) { return d.held()->cache.fork(row); })
      .def("fork_at", [](PyDecoder& d, int row, int length) { return d.held()->cache.fork(row, length); })
      .def("close", [](PyDecoder& d, int row) { d.held()->close(row); })
      .def("length", [](PyDecoder& d, int row) { return d.held()->cache.length(row); })
      .def("keep", [](PyDecoder& d, int row, const std::vector<int>& path) { d.held()->keep(row, path); })
      .def("score", &PyDecoder::score, "rows"_a, "starts"_a, "tokens"_a, "parents"_a, "taps"_a = std::vector<int>{},
           "layers"_a = -1, "skip"_a = std::vector<int>{})
      .def("score_given", &PyDecoder::score_given, "rows"_a, "starts"_a, "parents"_a, "given"_a, "residuals"_a,
           "whole"_a = false,
           "All of a model with an input_width, for nodes that are no tokens: what its attention reads [nodes, "
           "input_width] and the residual stream before the layer [nodes, hidden_size]. hidden(0) is the stream behind "
           "it. whole: every node sees all of its row's, which have to be a chain.")
      .def("advance", &PyDecoder::advance, "rows"_a, "starts"_a, "tokens"_a, "parents"_a, "loops"_a, "came"_a,
           "One loop for nodes of different age; came: their numbers in the row's last pass, -1 for new ones.")
      .def(
          "set_fetch", &PyDecoder::set_fetch, "tokens"_a, "level"_a, "bytes"_a, "tiles"_a,
          "How products of `tokens` and more ask for their weights: into which level of cache (0: not at all), how far "
          "ahead, and how many tiles side by side for one token. Bits stay.")
      .def("set_weights", &PyDecoder::set_weights, "buffer"_a,
           "Reads the weights from a copy of the buffer from now on.")
      .def("choose", &PyDecoder::choose, "rows"_a, "edits"_a = nb::none(), "top"_a = 0)
      .def("logits", &PyDecoder::logits, "nodes"_a)
      .def("top", &PyDecoder::top, "nodes"_a, "k"_a)
      .def("hidden", &PyDecoder::hidden, "tap"_a)
      .def("set_hidden", &PyDecoder::set_hidden, "nodes"_a, "states"_a,
           "Makes choices and logits after these nodes from other states [nodes, hidden_size] behind the final norm.")
      .def("product", &PyDecoder::product, "kind"_a, "rows"_a, "cols"_a, "data"_a, "x"_a,
           "x [n, cols] times any packed matrix, on the threads of the model: [n, rows]. Scores stay valid.")
      .def("product_top", &PyDecoder::product_top, "kind"_a, "rows"_a, "cols"_a, "data"_a, "x"_a, "k"_a,
           "The k largest outputs of such products, best first, the lower row on ties: [n, k] rows, [n, k] values.")
      .def_prop_ro("isa", [](PyDecoder& d) { return d.get().products.kernels().name; })
      .def_prop_ro("num_threads", [](PyDecoder& d) { return d.get().threads.count(); })
      .def_prop_ro("work", [](PyDecoder& d) { return d.held()->call.work; })
      .def_prop_ro("cache_bytes", [](PyDecoder& d) { return d.held()->cache.used_bytes(); })
      .def_prop_ro_static("max_nodes", [](nb::handle) { return kMaxNodes; })
      .def_prop_ro_static("max_top", [](nb::handle) { return kMaxTop; });
}

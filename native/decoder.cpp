#include "decoder.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/dispatch.hpp"

namespace outpace {

Decoder::Decoder(Model read, std::shared_ptr<Crew> with, bool half_cache, int64_t cache_positions)
    : crew(std::move(with)),
      lock(crew->lock),
      model(std::move(read)),
      threads(crew->threads),
      products(select_kernels(), threads),
      cache(products.kernels(), model.num_layers(), model.config.num_kv_heads, model.config.head_dim, half_cache,
            cache_positions),
      progress(model.width()),
      flights(model.width(), model.config.num_loops, model.loop_layers()),
      layers(model, call, cache, products),
      output(model, call, products) {}

void Decoder::score(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
                    const int32_t* parents, const std::vector<int>& taps, int depth, const std::vector<int>& skip) {
  if (model.config.input_width) throw std::invalid_argument("this model reads states and no tokens");
  Part part = part_of(model.num_layers(), depth, skip);
  for (int tap : taps)
    if (tap < 0 || tap >= model.num_layers())
      throw std::invalid_argument("no layer " + std::to_string(tap) + " to tap");
  const bool complete = (int)part.size() == 2 * model.num_layers();
  begin(rows, starts, tokens, parents, complete ? taps : std::vector<int>{}, std::move(part));
  call.last_loop = complete ? 0 : -1;
  const int from = progress.resume(call, cache);
  if (from > 0 && !call.active.empty()) layers.run(0, from, false);
  call.activate_all();
  layers.run(from, (int)call.part.size(), true);
  if (!complete) progress.remember(call);
  call.nodes = (int)call.tokens.size();
}

void Decoder::score_given(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* parents,
                          const float* given, const float* residuals, bool whole) {
  const int wide = model.config.input_width, width = model.config.hidden_size, n = starts.back();
  if (!wide) throw std::invalid_argument("this model reads tokens and no states");
  begin(rows, starts, std::vector<int32_t>(n).data(), parents, {0}, part_of(1, -1, {}));
  if (whole) call.see_all();
  call.last_loop = 0;
  for (int i = 0; i < n; i++) {
    std::copy_n(given + (size_t)i * wide, wide, call.given.row(i, model.input_width()));
    std::copy_n(residuals + (size_t)i * width, width, call.states.row(i, model.width()));
  }
  call.activate_all();
  layers.run(0, (int)call.part.size(), true);
  call.nodes = n;
}

void Decoder::begin(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
                    const int32_t* parents, std::vector<int> taps, Part part) {
  call.plan(rows, starts, tokens, parents, model.config.vocab_size, model.config.context_length, cache);
  for (int row : rows) flights.forget(row);
  call.taps = std::move(taps);
  call.part = std::move(part);
  call.work = 0;
  output.forget(call.tokens.size());
  layers.reserve();
}

void Decoder::advance(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
                      const int32_t* parents, const int32_t* loops, const int32_t* came) {
  call.plan(rows, starts, tokens, parents, model.config.vocab_size, model.config.context_length, cache);
  flights.check(call, loops, came);
  for (int row : rows) progress.forget(row);
  call.loops.assign(loops, loops + call.tokens.size());
  call.last_loop = model.config.num_loops - 1;
  call.taps.clear();
  call.part = part_of(model.num_layers(), model.loop_layers(), {});
  call.work = 0;
  output.forget(call.tokens.size());
  layers.reserve();
  flights.resume(call, cache, came);
  call.activate_all();
  layers.run(0, (int)call.part.size(), true);
  flights.remember(call);
  call.nodes = (int)call.tokens.size();
}

// A new row may get this number: it must not inherit the scored tree.
void Decoder::close(int row) {
  cache.close(row);
  progress.forget(row);
  flights.forget(row);
  call.forget(row);
}

void Decoder::keep(int row, const std::vector<int>& path) {
  const std::vector<int> whole = call.path_from_root(row, cache.length(row), path);
  cache.keep(row, whole);
  flights.keep(row, whole.back());
}

}  // namespace outpace

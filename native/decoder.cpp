#include "decoder.hpp"

#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/dispatch.hpp"

namespace outpace {

Decoder::Decoder(Model read, int num_threads, bool half_cache, int64_t cache_positions)
    : model(std::move(read)),
      threads(num_threads),
      products(select_kernels(), threads),
      cache(products.kernels(), model.num_layers(), model.config.num_kv_heads, model.config.head_dim, half_cache,
            cache_positions),
      progress(model.width()),
      layers(model, call, cache, products),
      output(model, call, products) {}

void Decoder::score(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
                    const int32_t* parents, const std::vector<int>& taps, int depth, const std::vector<int>& skip) {
  Part part = part_of(model.num_layers(), depth, skip);
  for (int tap : taps)
    if (tap < 0 || tap >= model.num_layers())
      throw std::invalid_argument("no layer " + std::to_string(tap) + " to tap");
  call.plan(rows, starts, tokens, parents, model.config.vocab_size, model.config.context_length, cache);
  call.complete = (int)part.size() == 2 * model.num_layers();
  call.taps = call.complete ? taps : std::vector<int>{};
  call.part = std::move(part);
  call.work = 0;
  output.forget(call.tokens.size());
  layers.reserve();
  const int from = progress.resume(call, cache);
  if (from > 0 && !call.active.empty()) layers.run(0, from, false);
  call.activate_all();
  layers.run(from, (int)call.part.size(), true);
  if (!call.complete) progress.remember(call);
  call.nodes = (int)call.tokens.size();
}

// A new row may get this number: it must not inherit the scored tree.
void Decoder::close(int row) {
  cache.close(row);
  progress.forget(row);
  call.forget(row);
}

void Decoder::keep(int row, const std::vector<int>& path) {
  cache.keep(row, call.path_from_root(row, cache.length(row), path));
}

}  // namespace outpace

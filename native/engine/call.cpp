#include "engine/call.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/kernels.hpp"

namespace outpace {

Part part_of(int num_layers, int layers, const std::vector<int>& skip) {
  const int most = 2 * num_layers;
  if (layers < 0) layers = num_layers;
  if (layers < 1 || layers > num_layers)
    throw std::invalid_argument("a call runs 1 to " + std::to_string(num_layers) + " layers, not " +
                                std::to_string(layers));
  for (int s : skip)
    if (s < 0 || s >= most)
      throw std::invalid_argument("no sublayer " + std::to_string(s) + " to skip, accepted are 0 to " +
                                  std::to_string(most - 1));
  Part part;
  for (int s = 0; s < 2 * layers; s++)
    if (std::find(skip.begin(), skip.end(), s) == skip.end()) part.push_back(s);
  return part;
}

void Call::plan(const std::vector<int>& numbers, const std::vector<int>& starts, const int32_t* new_tokens,
                const int32_t* new_parents, int vocab_size, int context_length, Cache& cache) {
  const int total = starts.back();
  nodes = 0;
  whole = false;
  const auto refuse = [](const std::string& what) { throw std::invalid_argument(what); };
  if (total < 1 || total > kMaxNodes)
    refuse("a call scores 1 to " + std::to_string(kMaxNodes) + " nodes, not " + std::to_string(total));
  rows.clear();
  for (auto* v : {&depths, &positions, &row_of}) v->resize(total);
  for (size_t r = 0; r < numbers.size(); r++) {
    const int row = numbers[r], start = starts[r], n = starts[r + 1] - start, length = cache.length(row);
    if (n < 1) refuse("every row needs at least one node");
    for (const CallRow& other : rows)
      if (other.row == row) refuse("row " + std::to_string(row) + " stands twice in one call");
    bool chain = true;
    for (int j = 0; j < n; j++) {
      const int i = start + j, parent = new_parents[i], token = new_tokens[i];
      if (j == 0 ? parent != -1 : parent < 0 || parent >= j) refuse("a parent has to stand before its child");
      if (token < 0 || token >= vocab_size)
        refuse("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocab_size));
      chain = chain && parent == j - 1;
      row_of[i] = (int32_t)r;
      depths[i] = j ? depths[start + parent] + 1 : 0;
      positions[i] = length + depths[i];
      if (positions[i] >= context_length)
        refuse("position " + std::to_string(positions[i]) + " is outside the context of " +
               std::to_string(context_length));
    }
    rows.push_back({row, start, n, length, chain});
  }
  for (const CallRow& r : rows) cache.reserve(r.row, r.nodes);
  tokens.assign(new_tokens, new_tokens + total);
  parents.assign(new_parents, new_parents + total);
  loops.assign(total, 0);
}

void Call::see_all() {
  if (!std::all_of(rows.begin(), rows.end(), [](const CallRow& r) { return r.chain; }))
    throw std::invalid_argument("nodes that see their whole row have to be a chain");
  whole = true;
}

void Call::activate(std::vector<int> nodes) {
  active = std::move(nodes);
  groups.clear();
  for (int i = 0; i < (int)active.size(); i++) {
    const int row = row_of[active[i]], loop = loops[active[i]];
    if (groups.empty() || groups.back().row != row || groups.back().loop != loop) groups.push_back({row, loop, i, 0});
    groups.back().num_active++;
  }
}

void Call::activate_all() {
  std::vector<int> every(tokens.size());
  std::iota(every.begin(), every.end(), 0);
  activate(std::move(every));
}

void Call::check_node(int node) const {
  if (node < 0 || node >= nodes) throw std::invalid_argument("no node " + std::to_string(node) + " in the last call");
}

std::vector<int> Call::path_from_root(int row, int length, const std::vector<int>& path) const {
  const auto at = std::find_if(rows.begin(), rows.end(), [&](const CallRow& r) { return r.row == row; });
  if (at == rows.end() || !nodes || at->length != length || !is_through(at->start))
    throw std::invalid_argument("row " + std::to_string(row) + " has no scored tree to keep a path of");
  std::vector<int> found{0};
  for (int node : path) {
    if (node <= 0 || node >= at->nodes || parents[at->start + node] != found.back())
      throw std::invalid_argument("a path has to descend from the root, child by child");
    if (!is_through(at->start + node))
      throw std::invalid_argument("node " + std::to_string(node) + " cannot be kept, it has loops to run");
    found.push_back(node);
  }
  return found;
}

void Call::forget(int row) {
  for (CallRow& r : rows)
    if (r.row == row) r.row = -1;
}

}  // namespace outpace

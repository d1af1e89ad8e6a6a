#include "engine/progress.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace outpace {

int Progress::resume(Call& call, Cache& cache) {
  int from = 0;
  std::vector<int> pending;
  for (const CallRow& row : call.rows) {
    if (row.row >= (int)rows_.size()) rows_.resize(row.row + 1);
    Known& known = rows_[row.row];
    const Part done = std::exchange(known.part, {});
    const int count = (int)done.size();
    const bool usable = count > 0 && count <= (int)call.part.size() &&
                        (from == 0 || from == count) &&  // one for the whole call
                        std::equal(done.begin(), done.end(), call.part.begin()) &&
                        std::all_of(call.taps.begin(), call.taps.end(), [&](int tap) { return 2 * tap + 1 >= count; });
    if (usable) {
      from = count;
      take_over(known, done.back() / 2 + 1, row, call, cache, pending);
    } else {
      for (int i = 0; i < row.nodes; i++) pending.push_back(row.start + i);
    }
  }
  call.activate(std::move(pending));
  return from;
}

// Finds the nodes of a row's tree among the known ones, in ascending order on both sides, so that they can change
// places without a second copy.
void Progress::take_over(const Known& known, int layers, const CallRow& row, Call& call, Cache& cache,
                         std::vector<int>& pending) const {
  const int count = (int)known.tokens.size();
  std::vector<int> place(row.nodes, -1);
  for (int i = 0, last = -1; i < row.nodes; i++) {
    const int node = row.start + i, parent = i ? place[call.parents[node]] : -1;
    int j = i && parent < 0 ? count : last + 1;
    while (j < count && !(known.tokens[j] == call.tokens[node] && known.parents[j] == parent)) j++;
    if (j == count) {
      pending.push_back(node);
      continue;
    }
    place[i] = last = j;
    std::memcpy(call.states.row(node, width_), known.states.data() + (size_t)j * width_, sizeof(float) * width_);
  }
  for (int i = 0; i < row.nodes; i++)
    if (place[i] > i) cache.move(row.row, place[i], i, layers);
  for (int i = row.nodes; i-- > 0;)
    if (place[i] >= 0 && place[i] < i) cache.move(row.row, place[i], i, layers);
}

void Progress::remember(Call& call) {
  for (const CallRow& row : call.rows) {
    Known& known = rows_[row.row];
    const auto of = [&](const std::vector<int32_t>& v) { return v.begin() + row.start; };
    known.tokens.assign(of(call.tokens), of(call.tokens) + row.nodes);
    known.parents.assign(of(call.parents), of(call.parents) + row.nodes);
    const float* states = call.states.row(row.start, width_);
    known.states.assign(states, states + (size_t)row.nodes * width_);
    known.part = call.part;
  }
}

void Progress::forget(int row) {
  if (row < (int)rows_.size()) rows_[row].part.clear();
}

}  // namespace outpace

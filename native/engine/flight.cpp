#include "engine/flight.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace outpace {

void Flights::check(const Call& call, const int32_t* loops, const int32_t* came) const {
  if (num_loops_ < 2) throw std::invalid_argument("a pass of one loop needs a model whose layers run several times");
  const Known none;
  for (const CallRow& row : call.rows)
    check_row(row.row < (int)rows_.size() ? rows_[row.row] : none, call, row, loops + row.start, came + row.start);
}

void Flights::check_row(const Known& known, const Call& call, const CallRow& row, const int32_t* loops,
                        const int32_t* came) const {
  const auto refuse = [&](int node, const std::string& what) {
    throw std::invalid_argument("node " + std::to_string(node) + " of row " + std::to_string(row.row) + ' ' + what);
  };
  const int32_t *tokens = call.tokens.data() + row.start, *parents = call.parents.data() + row.start;
  const int count = (int)known.tokens.size();
  for (int j = 0, last = -1; j < row.nodes; j++) {
    const int c = came[j];
    if (loops[j] < 0 || loops[j] >= num_loops_)
      refuse(j, "is in loop " + std::to_string(loops[j]) + ", accepted are 0 to " + std::to_string(num_loops_ - 1));
    if (j && loops[j] > loops[j - 1]) refuse(j, "has run more loops than one before it");
    if (c == -1) {
      if (loops[j]) refuse(j, "is new and has to begin with loop 0");
      continue;
    }
    if (c <= last || c >= count) refuse(j, "does not come from the row's last pass in its order");
    last = c;
    if (known.parents[c] != (j ? came[parents[j]] : known.kept) || known.tokens[c] != tokens[j])
      refuse(j, "was another one in the row's last pass");
    if (loops[j] != known.loops[c] + 1) refuse(j, "has to go on with loop " + std::to_string(known.loops[c] + 1));
  }
}

void Flights::resume(Call& call, Cache& cache, const int32_t* came) {
  for (const CallRow& row : call.rows) {
    if (row.row >= (int)rows_.size()) rows_.resize(row.row + 1);
    const Known known = std::exchange(rows_[row.row], {});
    const int committed = row.length - known.length;
    // A node never stands before its new slot, and new nodes stand behind all others.
    for (int j = 0; j < row.nodes; j++) {
      const int node = row.start + j, c = came[node];
      if (c < 0) continue;
      std::memcpy(call.states.row(node, width_), known.states.data() + (size_t)c * width_, sizeof(float) * width_);
      cache.move(row.row, c - committed, j, call.loops[node] * loop_layers_);
    }
  }
}

void Flights::remember(Call& call) {
  for (const CallRow& row : call.rows) {
    Known& known = rows_[row.row];
    const auto copy = [&](const std::vector<int32_t>& from, std::vector<int32_t>& to) {
      to.assign(from.begin() + row.start, from.begin() + row.start + row.nodes);
    };
    copy(call.tokens, known.tokens);
    copy(call.parents, known.parents);
    copy(call.loops, known.loops);
    const float* states = call.states.row(row.start, width_);
    known.states.assign(states, states + (size_t)row.nodes * width_);
    known.length = row.length;
    known.kept = -1;
  }
}

void Flights::keep(int row, int node) {
  if (row < (int)rows_.size()) rows_[row].kept = node;
}

void Flights::forget(int row) {
  if (row < (int)rows_.size()) rows_[row] = {};
}

}  // namespace outpace

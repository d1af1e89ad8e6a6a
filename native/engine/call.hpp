// One call of a model: the nodes of its rows, the part of the model that they run through, and what they leave behind.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/cache.hpp"

namespace outpace {

// What a call runs of a model, in order: sublayer 2l is the attention of layer l, 2l + 1 its feed-forward. A layer is a
// place with keys and values of its own; whose weights it runs is the model's affair.
using Part = std::vector<int>;

// The layers 0 ... layers-1 (-1: all) without some sublayers. Throws std::invalid_argument for what a model of so many
// layers does not have.
Part part_of(int num_layers, int layers, const std::vector<int>& skip);

struct CallRow {
  int row, start, nodes, length;  // length: committed positions
  bool chain;
};

// Active nodes of one row that run the same loop: they share the keys and values that they see.
struct Group {
  int row, loop, first_active, num_active;  // row: of the call
};

struct Call {
  // rows[r] takes the nodes starts[r] ... starts[r+1]-1; parents are node numbers within the row, -1 for node 0. Makes
  // room in the cache, after checks of everything that comes from outside.
  void plan(const std::vector<int>& numbers, const std::vector<int>& starts, const int32_t* new_tokens,
            const int32_t* new_parents, int vocab_size, int context_length, Cache& cache);
  // Every node sees all of its row's. Throws std::invalid_argument where these are no chain.
  void see_all();
  // The nodes that run now, in groups. Number i among them is row i of every buffer that the layers work on.
  void activate(std::vector<int> nodes);
  void activate_all();
  void check_node(int node) const;
  bool is_through(int node) const { return loops[node] == last_loop; }
  // A path below the root of a row's tree, with the root, if the row may keep it.
  std::vector<int> path_from_root(int row, int length, const std::vector<int>& path) const;
  void forget(int row);

  int nodes = 0;  // 0 until the call has run: nothing can be kept or asked of it
  std::vector<CallRow> rows;
  std::vector<Group> groups;
  std::vector<int32_t> tokens, parents, depths, positions, row_of;
  std::vector<int32_t> loops;  // that each node runs in a pass of one loop; 0 in any other call
  std::vector<int> active, taps;
  Part part;
  bool whole = false;  // every node sees all of its row's, which are a chain
  int last_loop = 0;   // the nodes that ran it are through with the whole model; -1: none is
  int64_t work = 0;    // how many sublayers it ran, each node counted
  // The residual stream behind the part, behind the final norm and, for each tap, behind its layer. [nodes][width]
  Buffer states, hidden, tapped;
  Buffer given;  // what the attention of a model with an input_width reads. [nodes][input_width padded]
};

}  // namespace outpace
